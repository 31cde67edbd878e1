"""Draws travel: between processes, in batch dictionaries, by rows."""

from dataclasses import fields, replace

import pytest
import torch
from bounds import rollout, shown_instead
from toys import rng, synced

from core.scoring import COUPLINGS, REPLAYS, WHOLE, Draws, Share


def assert_same(one: Draws, other: Draws) -> None:
    for field in fields(Draws):
        value, expected = getattr(one, field.name), getattr(other, field.name)
        assert (value is None) == (expected is None), field.name
        assert value is None or torch.equal(value, expected), field.name


def any_draws(source: str, coupling: str = "nested", replay: str = "drawn", seed: int = 0, **options) -> Draws:
    """Draws for 6 rows, or for the rows of one process."""
    masking, nelbo = synced(source=source, coupling=coupling, replay=replay, num_draws=4)
    masking.p_mask_prompt = 0.5
    out = rollout(rows=6)
    share = options.get("share", WHOLE)
    rows = 6 // share.processes
    return nelbo.draw(masking, rows, 6, 3, rng(seed), trajectory=out[share.own(rows)], **options)


KINDS = [("forward", coupling, "drawn") for coupling in COUPLINGS] + [("rollout", "nested", r) for r in REPLAYS]


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_processes_get_the_rows_of_the_global_draw(kind, processes):
    whole, rows = any_draws(*kind), 6 // processes
    for rank in range(processes):
        part = any_draws(*kind, share=Share(rank, processes))
        assert_same(part, whole.rows(slice(rank * rows, (rank + 1) * rows)))
    assert len(whole.prompt_hidden.unique(dim=0)) == 6  # no process repeats another


@pytest.mark.parametrize("rolled_out", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_survive_a_batch_dictionary_and_an_iteration_axis(kind, rolled_out):
    draws = [any_draws(*kind, seed=seed) for seed in range(3)]
    if rolled_out:
        draws = [shown_instead(one, torch.full((6, 6), i)) for i, one in enumerate(draws)]
    stacked = Draws.stack(draws)
    batch = stacked.to_dict("nelbo_")
    assert all(key.startswith("nelbo_") and value.size(0) == 6 for key, value in batch.items())
    assert ("nelbo_shown" in batch) == ("nelbo_rolled_out" in batch) == rolled_out
    half = Draws.from_dict({key: value[3:] for key, value in batch.items()} | {"ids": None}, "nelbo_")
    for i, one in enumerate(draws):
        assert_same(stacked.iteration(i), one)
        assert_same(half.iteration(i), replace(one.rows(slice(3, 6)), u=None))  # u stays where it was drawn
    assert not torch.equal(draws[0].prompt_hidden, draws[1].prompt_hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_named_by_a_slice_an_index_or_a_mask(kind):
    draws = shown_instead(any_draws(*kind), torch.arange(36).view(6, 6))
    mask = torch.tensor([False, False, True, True, True, False])
    for rows in (torch.tensor([2, 3, 4]), mask):
        assert_same(draws.rows(rows), draws.rows(slice(2, 5)))
    assert torch.equal(draws.rows(mask).shown, draws.shown[2:5])


def test_only_forward_draws_have_uniforms():
    assert [any_draws(*kind).u is not None for kind in KINDS] == [kind[0] == "forward" for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_draws_repeat_with_the_generator(kind):
    before = torch.get_rng_state()
    assert_same(any_draws(*kind, seed=5), any_draws(*kind, seed=5))
    assert torch.equal(torch.get_rng_state(), before)
