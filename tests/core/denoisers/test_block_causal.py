"""The loss of a block-causal model: what one forward over [noisy | clean] says of a rollout and of noised text."""

import itertools

import pytest
import torch
from toys import MASK, PROMPT, BlockTable, assert_mean, prompts, rng, synced

from core.denoisers.denoiser import tempered_logps
from core.oracles.exact import conditional_logps, exact_nelbo
from core.scoring import Draws, LikelihoodEstimate
from core.trajectory import NEVER, Trajectory

LENGTH, BLOCK = 6, BlockTable.block_length
BLOCKS = LENGTH // BLOCK
IDS = torch.tensor([2, 0, 1, 1, 2, 0])


DENOISER = BlockTable()


def rollout(groups: list[list[list[int]]]) -> Trajectory:
    """One row, written block by block; ``groups`` says which positions each step of each block reveals.

    The model is given the prompt and the canvas up to the block, no more: the definition of a block-causal rollout.
    """
    ids, noise = torch.full((1, LENGTH), MASK), rng(3)
    step_map, commits, step = torch.full((1, LENGTH), NEVER), torch.zeros(1, LENGTH), 0
    for block, steps in enumerate(groups):
        stop = (block + 1) * BLOCK
        for positions in steps:
            state = torch.cat([PROMPT.unsqueeze(0), ids[:, :stop]], dim=1)
            logps = tempered_logps(DENOISER.logits(state, None, torch.ones_like(state, dtype=torch.bool)), 1.0)
            for i in positions:
                token = torch.multinomial(logps[len(PROMPT) + i].exp(), 1, generator=noise)
                ids[0, i], commits[0, i], step_map[0, i] = token, logps[len(PROMPT) + i, token], step
            step += 1
    eos_id, length = 1, torch.tensor([LENGTH])
    ids[ids == MASK] = eos_id  # the tail of a row that has stopped
    return Trajectory(ids, step_map, commits, length, torch.tensor([False]), torch.tensor([step]), True, None)


FULL = rollout([[[1], [0], [2]], [[5, 4], [3]]])  # blocks of three and of two steps
STOPPED = rollout([[[1, 0], [2]], [[3]]])  # two positions were never reached


def repeated(out: Trajectory, rows: int) -> Trajectory:
    return out[torch.zeros(rows, dtype=torch.int64)]


def drawn_from(
    out: Trajectory, replay: str, num_draws: int = 2, block_length: int | None = BLOCK, seed: int = 0
) -> Draws:
    masking, nelbo = synced(source="rollout", replay=replay, num_draws=num_draws, causal_block_length=block_length)
    return nelbo.draw(masking, *out.ids.shape, len(PROMPT), rng(seed), trajectory=out)


def scored(out: Trajectory, draws: Draws) -> LikelihoodEstimate:
    _, nelbo = synced(source="rollout", replay="drawn")
    return nelbo.score(DENOISER, *prompts(len(out)), out.ids, draws)


every_rollout = pytest.mark.parametrize("out", [FULL, STOPPED], ids=["full", "stopped"])


@every_rollout
def test_replaying_every_step_gives_back_the_commits_in_as_many_forwards_as_the_longest_block(out):
    draws = drawn_from(out, "all")
    estimate = scored(out, draws)
    assert draws.hidden.shape == (1, len(set(out.step_map[0, :BLOCK].tolist())), LENGTH)
    assert torch.allclose(estimate.token_bound, -out.commit_logps, atol=1e-5)  # float32, log-probs of size 1 to 5
    assert torch.equal(estimate.token_weight, (out.step_map < NEVER).float())
    assert bool((estimate.standard_error == 0).all())


@every_rollout
def test_one_step_after_the_other_says_the_same(out):
    """Without side-by-side blocks a replay of a block-causal rollout is right too, in more forwards."""
    apart = drawn_from(out, "all", block_length=None)
    assert apart.hidden.size(1) == int(out.forwards)
    assert torch.allclose(scored(out, apart).token_bound, -out.commit_logps, atol=1e-5)


def every_draw(out: Trajectory, num_draws: int) -> LikelihoodEstimate:
    """The estimates of all (3!)^2 equally likely draws: every order of a block's three slots, in both blocks."""
    orders = torch.tensor(list(itertools.permutations(range(BLOCK)))).double()
    keys = torch.stack([torch.stack(pair) for pair in itertools.product(orders, orders)])  # (36, 2, 3)
    masking, nelbo = synced(source="rollout", replay="drawn", num_draws=num_draws, causal_block_length=BLOCK)

    def noise(*shape: int) -> torch.Tensor:
        assert shape == keys.shape[1:]
        return keys

    out = repeated(out, len(keys))
    fields = nelbo.draw_states(masking, LENGTH, noise, out)
    no_prompt = torch.zeros(len(keys), num_draws, len(PROMPT), dtype=torch.bool)
    return scored(out, Draws(**{**fields, "weight": fields["weight"].float()}, prompt_hidden=no_prompt))


@every_rollout
@pytest.mark.parametrize("num_draws", [1, 2])
def test_drawn_steps_of_every_block_average_to_the_whole_replay(out, num_draws):
    """Exactly: the mean over all draws there are."""
    found = every_draw(out, num_draws)
    assert torch.allclose(found.token_bound.mean(dim=0), -out.commit_logps[0], atol=1e-5)
    assert torch.allclose(found.token_weight.mean(dim=0), (out.step_map[0] < NEVER).float(), atol=1e-6)


def test_the_squared_standard_error_averages_to_the_variance():
    found = every_draw(FULL, 2)
    variance = found.sequence_bound.var(correction=0)
    assert variance > 0.1
    assert torch.allclose(found.standard_error.square().mean(), variance, rtol=1e-4)


@every_rollout
def test_draws_by_seed_are_unbiased(out):
    rows = repeated(out, 4000)
    assert_mean(scored(rows, drawn_from(rows, "drawn", 1)).sequence_bound, -out.commit_logps.sum().item())


def test_as_many_draws_as_the_longest_block_has_steps_leave_nothing_to_chance():
    found = scored(FULL, drawn_from(FULL, "drawn", 3))
    assert torch.allclose(found.token_bound, -FULL.commit_logps, atol=1e-5)
    assert bool((found.standard_error == 0).all())


@every_rollout
def test_segments_divide_the_steps_of_each_block(out):
    """As many segments as steps are the steps; one segment scores each block on its empty self and its clean past."""
    fine = scored(out, drawn_from(out, "segments", 6))
    assert torch.allclose(fine.token_bound, -out.commit_logps, atol=1e-5)
    coarse = drawn_from(out, "segments", 1)
    assert bool(coarse.hidden.all())
    assert torch.equal(coarse.scored[:, 0], out.step_map < NEVER)
    first = conditional_logps(DENOISER, PROMPT, out.ids[0, :BLOCK])[-1].float()
    second = conditional_logps(DENOISER, torch.cat([PROMPT, out.ids[0, :BLOCK]]), out.ids[0, BLOCK:])[-1].float()
    expected = torch.cat([first, second]) * (out.step_map[0] < NEVER)
    assert torch.allclose(scored(out, coarse).token_bound[0], -expected, atol=1e-5)


@pytest.mark.parametrize("replay", ["drawn", "segments", "all"])
def test_a_single_block_is_the_whole_canvas(replay):
    """The same draws, bit for bit, as without blocks."""
    whole, block = (drawn_from(FULL, replay, block_length=length).to_dict("") for length in (None, LENGTH))
    assert whole.keys() == block.keys()
    assert all(torch.equal(whole[name], block[name]) for name in whole)


def test_blocks_must_divide_the_canvas_that_is_replayed():
    with pytest.raises(ValueError, match="causal_block_length=4: expected a divisor of the canvas, 6 tokens"):
        drawn_from(FULL, "drawn", block_length=4)


@pytest.mark.parametrize("coupling", ["nested", "independent"])
def test_the_bound_on_noised_text_is_the_sum_of_the_blocks_own(coupling):
    """Each block's NELBO given the clean blocks before it, by enumeration."""
    masking, nelbo = synced(source="forward", num_draws=2, coupling=coupling)
    found = nelbo(DENOISER, masking, *prompts(4000), IDS.expand(4000, -1), rng())
    expected = sum(
        exact_nelbo(
            conditional_logps(DENOISER, torch.cat([PROMPT, IDS[:start]]), IDS[start : start + BLOCK]), nelbo.schedule
        )
        for start in range(0, LENGTH, BLOCK)
    )
    assert_mean(found.sequence_bound, expected.item())
