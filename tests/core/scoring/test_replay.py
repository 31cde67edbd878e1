"""Recorded states: every step gives back the commits, drawn steps estimate it, segments score every token once."""

import itertools

import pytest
import torch
from bounds import DENOISER, ROWS, assert_calibrated, repeated, replay_of, rollout
from toys import PROMPT, assert_mean, chi_square_excess, rng, synced

from core.likelihoods import MergedReplay
from core.nelbo import SOURCES
from core.oracles.exact import conditional_logps
from core.sampling import SAMPLERS, SELECTIONS, SOLVERS
from core.trajectory import NEVER, Trajectory

ROLLOUTS = [
    {"sampler": name, "block_length": block, "eos_id": eos, "temperature": temperature, **choice}
    for name, kind in SAMPLERS.items()
    if kind.final
    for choice in [
        *({"selection": rule} for rule in (SELECTIONS if kind.selects else ())),
        *({"solver": solver} for solver in (SOLVERS if kind.solves else ()) if SOLVERS[solver].exact),
    ]
    for block, eos, temperature in ((6, None, 1.0), (2, None, 0.7), (6, 2, 1.0), (2, 2, 1.5))
]


@pytest.mark.parametrize("options", ROLLOUTS, ids=lambda options: "-".join(map(str, options.values())))
def test_replaying_every_step_gives_back_the_recorded_commits(options):
    out = rollout(**options)
    estimate = replay_of(out, "all", temperature=options["temperature"])
    assert torch.allclose(estimate.sequence_bound, -out.commit_logps.sum(dim=1), atol=1e-5)
    assert torch.allclose(estimate.per_token_logps, out.commit_logps, atol=1e-5)
    assert torch.equal(estimate.token_weight > 0, out.step_map < NEVER)
    assert bool((estimate.standard_error == 0).all())


@pytest.fixture(scope="module")
def gappy() -> Trajectory:
    """One row of a batch whose steps are its own: not every batch step revealed something in it."""
    batch = rollout(rows=20, sampler="ancestral")
    for row, steps in enumerate(batch.step_map.tolist()):
        if len(set(steps)) == 4 and max(steps) > 3:
            return repeated(batch, row)
    raise AssertionError("no such row")


@pytest.mark.parametrize("num_draws", [1, 2, 3])
def test_drawn_steps_estimate_the_whole_replay_without_bias(gappy, num_draws):
    estimate = replay_of(gappy, "drawn", num_draws)
    assert_mean(estimate.sequence_bound, -gappy.commit_logps[0].sum().item(), sigmas=3)
    assert_mean(estimate.token_bound, -gappy.commit_logps[0])
    assert_mean(estimate.token_weight, 1.0)


@pytest.mark.parametrize("num_draws", [2, 3])
def test_standard_error_of_drawn_steps_is_calibrated(gappy, num_draws):
    assert_calibrated(replay_of(gappy, "drawn", num_draws))


@pytest.mark.parametrize("num_draws", [1, 2, 3])
def test_every_subset_of_steps_is_equally_likely_and_their_mean_is_the_whole_replay(gappy, num_draws):
    masking, nelbo = synced(source="rollout", num_draws=num_draws, replay="drawn")
    draws = nelbo.draw(masking, ROWS, 6, 2, rng(), trajectory=gappy)
    combinations = list(itertools.combinations(range(4), num_draws))
    found, first, counts = [], [], []
    for steps in combinations:
        rows = (draws.timestep == torch.tensor(steps)).all(dim=1)
        found.append(steps), first.append(int(rows.int().argmax())), counts.append(int(rows.sum()))
    assert sum(counts) == ROWS
    if len(combinations) > 1:
        assert chi_square_excess(torch.tensor(counts), torch.full((len(found),), ROWS / len(found))) < 4
    bound = replay_of(gappy, "drawn", num_draws).sequence_bound[first]
    assert bound.mean().item() == pytest.approx(-gappy.commit_logps[0].sum().item(), abs=1e-4)


@pytest.mark.parametrize("num_draws", [4, 5, 50])
def test_with_as_many_draws_as_steps_nothing_is_left_to_chance(gappy, num_draws):
    out = gappy[:20]
    drawn, whole = replay_of(out, "drawn", num_draws), replay_of(out, "all")
    assert torch.allclose(drawn.sequence_bound, whole.sequence_bound, atol=1e-5)
    assert torch.equal(drawn.token_weight, torch.ones(20, 6))
    assert bool((drawn.standard_error == 0).all())


def test_one_drawn_step_of_several_has_no_error_bar(gappy):
    out = gappy[torch.arange(3)]  # a copy
    out.step_map[0] = 0  # one step: nothing is left to chance in this row
    assert replay_of(out, "drawn", 1).standard_error.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("num_draws", [1, 2, 3, 4, 5])
def test_merged_steps_have_no_error_bar_and_unmerged_ones_leave_nothing_to_chance(gappy, num_draws):
    out = gappy[torch.arange(2)]  # four steps each; the first row gets one step
    out.step_map[0] = 0
    errors = replay_of(out, "segments", num_draws).standard_error
    assert errors[0] == 0 and bool(errors[1].isnan()) is (num_draws < 4)


@pytest.mark.parametrize(("size", "known"), [(1, True), (2, False), (4, False)])
def test_runs_of_several_steps_have_no_error_bar(gappy, size, known):
    masking, _ = synced()
    merged = MergedReplay(max_timesteps=8, shrinkage=size)
    masking.schedule = merged.schedule
    draws = merged.draw(masking, *gappy.ids.shape, 2, rng(), trajectory=gappy)
    logps = torch.full(draws.hidden.shape, -0.5) * draws.scored
    errors = merged.combine(logps, torch.zeros_like(logps), draws).standard_error
    assert bool((errors == 0).all() if known else errors.isnan().all())


@pytest.mark.parametrize("num_draws", [1, 2, 3, 4, 6, 9])
def test_segments_score_every_token_once_in_the_state_before_its_segment(num_draws):
    out = rollout(sampler="ancestral")
    masking, nelbo = synced(source="rollout", replay="segments", num_draws=num_draws)
    draws = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    assert bool((draws.scored.sum(dim=1) == 1).all())
    assert torch.equal(nelbo.token_weight(draws), torch.ones(out.ids.shape))
    for row, m in itertools.product(range(len(out)), range(num_draws)):
        scored = draws.scored[row, m]
        if bool(scored.any()):
            steps = out.step_map[row]
            assert torch.equal(draws.hidden[row, m], steps >= steps[scored].min())
    sizes = draws.scored.any(dim=2).sum(dim=1)
    dense = torch.tensor([len(set(steps)) for steps in out.step_map.tolist()])
    assert torch.equal(sizes, dense.clamp(max=num_draws))


def test_as_many_segments_as_steps_are_all_steps():
    out = rollout()
    steps = len(set(out.step_map[0].tolist()))
    masking, nelbo = synced(source="rollout", replay="segments", num_draws=steps)
    segments = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    nelbo.replay = "all"
    whole = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    assert steps > 2 and torch.equal(segments.hidden, whole.hidden) and torch.equal(segments.scored, whole.scored)


def test_one_segment_predicts_everything_from_the_prompt():
    out = rollout(rows=3, length=4)
    expected = [-conditional_logps(DENOISER, PROMPT, ids)[-1].sum().item() for ids in out.ids]
    assert replay_of(out, "segments", 1).sequence_bound.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("source", SOURCES)
def test_a_replay_scores_the_canvas_and_forward_states_the_text(source):
    out = rollout(rows=40, eos_id=2)
    canvas = synced(source=source)[1].canvas(out)
    assert not torch.equal(out.ids, out.completion_ids)
    assert torch.equal(canvas, out.ids if source == "rollout" else out.completion_ids)
