"""Annealed attention: causal at one end, bidirectional at the other, between them the share that was asked for."""

import pytest
import torch
from toys import TableDenoiser, prompts, rng, synced

from core.denoisers import AnnealedDenoiser
from core.denoisers.attention import annealed, bidirectional, without_padding

LENGTH = 40
FUTURE = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)


def test_nothing_of_the_future_is_causal_and_all_of_it_bidirectional():
    assert torch.equal(annealed(LENGTH, 0.0, rng()), ~FUTURE)
    mask = (torch.arange(LENGTH) >= torch.tensor([0, 7]).unsqueeze(1)).long()
    assert torch.equal(without_padding(annealed(LENGTH, 1.0, rng()), mask), bidirectional(mask))


@pytest.mark.parametrize("visible", [0.1, 0.5, 0.9])
def test_the_past_is_seen_always_and_the_future_at_its_rate(visible):
    rules = torch.stack([annealed(LENGTH, visible, rng(seed)) for seed in range(200)])
    assert bool(rules[:, ~FUTURE].all())
    seen = rules[:, FUTURE].double()
    error = (visible * (1 - visible) / seen.numel()) ** 0.5  # standard error of a share of independent pairs
    assert abs(seen.mean().item() - visible) < 4 * error
    by_pair = (visible * (1 - visible) / len(rules)) ** 0.5
    assert (seen.mean(dim=0) - visible).abs().max() < 5 * by_pair  # of 780 pairs


def test_what_is_seen_grows_with_the_share():
    """From the same draw: nobody loses sight of what it saw at a smaller share."""
    rules = [annealed(LENGTH, visible, rng()) for visible in (0.2, 0.6)]
    assert bool((rules[0] <= rules[1]).all()) and not torch.equal(*rules)


def test_padding_is_seen_by_itself_alone():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = without_padding(annealed(5, 0.7, rng()), mask)
    others = ~torch.eye(5, dtype=torch.bool)
    assert not bool((found & others)[0, :, :2].any())
    assert bool(found[:, ~others].all())  # and nobody is left without anything to see


@pytest.mark.parametrize("visible", [-0.1, 1.1])
def test_the_share_is_a_probability(visible):
    with pytest.raises(ValueError, match=f"visible={visible}: expected a probability"):
        annealed(LENGTH, visible, rng())


class Watched(TableDenoiser):
    """`TableDenoiser` that notes the rules it is told and heeds none."""

    def logits(self, ids, attention_mask, rows, position_ids=None):
        assert attention_mask is not None and attention_mask.ndim == 3
        found = super().logits(ids, None, rows)
        self.attention_seen[-1] = attention_mask
        return found


@pytest.mark.parametrize("states_per_forward", [None, 1, 3])
def test_every_group_of_states_sees_the_same_draw(states_per_forward):
    ids = torch.tensor([[2, 0, 1, 1], [0, 0, 2, 1]])
    prompt_ids, prompt_mask = prompts(2)
    prompt_mask[0, 0] = 0
    masking, nelbo = synced(num_draws=4)
    nelbo.states_per_forward = states_per_forward
    inner, rule = Watched(), annealed(6, 0.5, rng(3))
    draws = nelbo.draw(masking, 2, 4, 2, rng())
    found = nelbo.score(AnnealedDenoiser(inner, rule), prompt_ids, prompt_mask, ids, draws)
    seen = torch.cat(inner.attention_seen)
    mask = torch.cat([prompt_mask, torch.ones_like(ids)], dim=1).repeat_interleave(4, dim=0)
    assert torch.equal(seen, without_padding(rule, mask))
    assert bool(torch.isfinite(found.sequence_bound).all())
