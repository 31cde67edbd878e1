"""Blocks counted from the start of the text, by enumeration: the law of the rollout and the bound on it, for prompts
that end anywhere in a block."""

import itertools

import pytest
import torch
from toys import VOCABULARY, BlockTable, assert_mean, chi_square_excess, number, rng, sampler, synced

from core.alpha_schedule import AlphaSchedule
from core.oracles.exact import conditional_logps, exact_log_likelihood, exact_nelbo
from core.oracles.sampler_law import all_completions, log_likelihoods, state_table
from core.scoring.replay import Blocks, dense_steps
from core.trajectory import NEVER

LENGTH, BLOCK = 4, 2
ALL = all_completions(torch.arange(VOCABULARY), LENGTH)
PROMPTS = [torch.tensor(prompt) for prompt in ([1], [1, 2], [0, 2, 1], [2, 2, 0, 1])]
every_prompt = pytest.mark.parametrize("prompt", PROMPTS, ids=len)


class TextTable(BlockTable):
    """One that reads its prompt in blocks of two."""

    block_length, prompt_in_blocks = BLOCK, True


def generator(**options):
    return sampler(TextTable(), LENGTH, "linear", 4, block_length=BLOCK, **options)


def law(prompt, **options):
    made = generator(**options)
    return log_likelihoods(state_table(made, prompt, ALL), made)


def blocks_of(prompt) -> list[tuple[int, int]]:
    """Where the blocks of the text cut the canvas."""
    cuts = [at for at in range(1, LENGTH) if (len(prompt) + at) % BLOCK == 0]
    return list(itertools.pairwise([0, *cuts, LENGTH]))


def by_block(prompt, ids, value) -> torch.Tensor:
    """A sum over blocks, of the table of each given the text before it."""
    cuts = blocks_of(prompt)
    return sum(
        value(conditional_logps(BlockTable(), torch.cat([prompt, ids[:start]]), ids[start:stop]))
        for start, stop in cuts
    )


@every_prompt
@pytest.mark.parametrize(
    "options", [{"selection": rule} for rule in ("top1", "random", "low_confidence")] + [{"sampler": "ancestral"}]
)
def test_probabilities_sum_to_one(prompt, options):
    for temperature in (1.0, 0.7):
        total = law(prompt, temperature=temperature, **options).exp().sum().item()
        assert total == pytest.approx(1.0, abs=1e-6)  # float32 logits


@every_prompt
@pytest.mark.parametrize("options", [{"selection": "top1"}, {"sampler": "ancestral"}], ids=str)
def test_the_production_sampler_follows_the_law(prompt, options):
    rows = 12000
    ids = prompt.expand(rows, -1)
    out = generator(**options).generate(ids, torch.ones_like(ids), rng(5))
    counts = torch.bincount(number(out.ids), minlength=len(ALL))
    assert chi_square_excess(counts, rows * law(prompt, **options).exp()) < 4


@every_prompt
def test_the_bound_holds_and_is_what_the_loss_estimates(prompt):
    """NELBO >= -log p, block by block; the estimate from noised text averages to it."""
    walked = AlphaSchedule("linear", 2)  # with two blocks, each takes every second of four steps
    exact = law(prompt, sampler="ancestral")
    for text in (0, 17, 40, 80):
        own = by_block(prompt, ALL[text], lambda table: exact_log_likelihood(table, walked))
        assert exact[text].item() == pytest.approx(own.item(), abs=1e-5)
        assert by_block(prompt, ALL[text], lambda table: exact_nelbo(table, walked)) >= -exact[text]
    masking, nelbo = synced("linear", 4, source="forward", num_draws=2)
    bound = by_block(prompt, ALL[17], lambda table: exact_nelbo(table, nelbo.schedule))
    rows = 4000
    ids = prompt.expand(rows, -1)
    found = nelbo(TextTable(), masking, ids, torch.ones_like(ids), ALL[17].expand(rows, -1), rng())
    assert_mean(found.sequence_bound, bound.item())


@every_prompt
def test_replayed_commits_multiply_to_the_law_where_a_completion_has_one_path(prompt):
    rows = 60
    ids = prompt.expand(rows, -1)
    out = generator(selection="top1").generate(ids, torch.ones_like(ids), rng(1))
    exact = law(prompt, selection="top1")[number(out.ids)]
    assert torch.allclose(out.commit_logps.sum(dim=1).double(), exact, atol=1e-5)
    masking, nelbo = synced("linear", 4, source="rollout", replay="all", causal_block_length=BLOCK)
    draws = nelbo.draw(masking, rows, LENGTH, len(prompt), rng(), trajectory=out)
    found = nelbo.score(TextTable(), ids, torch.ones_like(ids), out.ids, draws)
    assert torch.allclose(-found.sequence_bound.double(), exact, atol=1e-5)


def test_blocks_apart_and_beside_are_inverse_to_each_other():
    lead, length, block = torch.tensor([0, 1, 2, 3]), 8, 4
    steps = torch.arange(32).view(4, 8)
    blocks = Blocks.of(steps, block, lead)
    apart = blocks.apart(steps).view(4, 3, block)
    for row, own in enumerate(lead.tolist()):
        assert apart[row].flatten().tolist() == [NEVER] * own + steps[row].tolist() + [NEVER] * (4 - own)
    states = torch.rand(12, 5, block, generator=rng()) < 0.5
    beside = blocks.beside(states)
    for row, own in enumerate(lead.tolist()):
        whole = states.view(4, 3, 5, block)[row].transpose(0, 1).flatten(1)
        assert torch.equal(beside[row], whole[:, own : own + length])
    dense, count = dense_steps(blocks.apart(steps))
    assert count.view(4, 3).tolist() == [[4, 4, 1], [3, 4, 1], [2, 4, 2], [1, 4, 3]]
    assert torch.equal(dense < NEVER, blocks.apart(steps) < NEVER)
