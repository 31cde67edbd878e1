"""Full logits and our scoring are the same loss, on states of exactly the share that was asked for."""

import pytest
import torch

from trainers.benchmarking.losses import PACKED, PLAIN, STREAMED, Text, compare_losses, draw_share
from trainers.benchmarking.prompts import random_prompts


@pytest.fixture
def policy(make_policy):
    return make_policy(seed=1, layers=2)


@pytest.fixture
def text(policy):
    ids = random_prompts(policy, 3, 5 + 20, seed=0)
    return Text(ids[:, :5], ids[:, 5:])


@pytest.mark.parametrize(("share", "hidden"), [(0.3, 6), (1.0, 20), (0.05, 1)])
def test_states_hide_exactly_their_share(share, hidden, text):
    draws = draw_share(text, 4, share, seed=0)
    assert bool((draws.hidden.sum(dim=2) == hidden).all())
    assert torch.equal(draws.scored, draws.hidden) and not bool(draws.prompt_hidden.any())
    # a token is hidden with chance `share`: the expected weight of its log-probabilities is then 1
    assert float(draws.weight.sum(dim=1).mean()) * share == pytest.approx(1)
    if hidden < 20:
        assert not torch.equal(draws.hidden[:, 0], draws.hidden[:, 1])


def test_all_forms_are_one_loss_with_one_gradient(policy, text):
    rows = compare_losses(policy, text, [2, 4], 0.3, repeats=1, seed=0)
    assert [(row.form, row.num_draws) for row in rows] == [
        (PLAIN, 2), (PACKED, 2), (PACKED, 4), (STREAMED, 2), (STREAMED, 4),
    ]  # fmt: skip
    for draws in (2, 4):
        same = [row for row in rows if row.num_draws == draws]
        for row in same:
            # float32 sums of some hundred terms in another order
            assert row.loss == pytest.approx(same[0].loss, rel=1e-5)
            assert row.gradient_norm == pytest.approx(same[0].gradient_norm, rel=1e-5)
    assert rows[0].loss != pytest.approx(rows[2].loss, rel=1e-3)
    assert [row.memory is not None for row in rows] == [True, True, False, True, False]
    assert all(len(row.cells()) == len(row.HEADINGS) for row in rows)


def test_full_logits_take_the_memory_of_full_logits(policy, text):
    rows = compare_losses(policy, text, [2], 0.1, repeats=1, seed=0)
    logits = 2 * 3 * (5 + 20) * policy.model.config.vocab_size * 4
    assert rows[0].peak_bytes - rows[1].peak_bytes > logits
    assert rows[0].memory == 1
