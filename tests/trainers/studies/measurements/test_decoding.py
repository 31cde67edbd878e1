"""Accuracy and cost are those of the evaluator on the same noise."""

from dataclasses import replace

import pytest
import torch
from benches import CANVAS, STEPS, endless

from core.alpha_schedule import SCHEDULES
from core.sampling import SOLVERS
from trainers.evaluating.evaluation import Evaluator
from trainers.evaluating.statistics import clustered_mean
from trainers.settings.objects import build_synced
from trainers.settings.options import ConfigError
from trainers.studies.measurements.decoding import measure_solvers, measure_steps, step_counts
from trainers.studies.measurements.exposure import measure_exposure
from trainers.studies.measurements.options import sampling_arguments
from trainers.studies.measurements.steps import FULL

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


@every_schedule
@pytest.mark.parametrize("block_length", [None, 4])
def test_full_reveals_one_token_at_a_time(make_bench, make_policy, schedule, block_length):
    blocks = CANVAS // (block_length or CANVAS)
    options = {"alpha_schedule": schedule, "block_length": block_length, "max_timesteps": 4 * blocks}
    bench = make_bench(endless(make_policy()), **options)
    (steps,) = step_counts(bench, [FULL]).values()
    assert steps // blocks in {2**n for n in range(12)}
    (half, row) = measure_steps(bench, {"half": steps // 2, FULL: steps}).rows
    assert row.sampled.forwards == row.greedy.forwards == CANVAS
    assert half.sampled.forwards < CANVAS, "the smallest such number"
    assert "(full)" in row.cells()[0]


def test_full_is_left_out_where_the_ends_of_the_schedule_reveal_several_tokens(make_bench):
    wide = {"max_completion_length": 256}
    bench = make_bench(**wide)
    counts = step_counts(bench, [FULL])
    assert counts == {FULL: None}
    found = measure_steps(bench, counts)
    assert not found.rows and "alpha_min=0.01, alpha_max=0.99" in found.notes[0]
    assert not measure_solvers(bench, counts).rows
    assert step_counts(make_bench(alpha_min=0.0, alpha_max=1.0, **wide), [FULL])[FULL] >= 256


def test_full_is_left_out_where_the_last_step_reveals_what_is_left(make_bench):
    bench = make_bench(counts="dream", alpha_schedule="linear", alpha_min=0.0, alpha_max=0.999)
    counts = step_counts(bench, [FULL, STEPS])
    assert counts == {FULL: None, str(STEPS): STEPS}
    assert "generation.counts=dream" in measure_steps(bench, {FULL: None}).notes[0]
    assert len(measure_solvers(bench, {str(STEPS): STEPS}).rows) > 1, "which follow the schedule"


def test_row_at_the_experiments_own_steps_is_its_evaluation(make_bench, make_policy, splits):
    policy = make_policy()
    bench = make_bench(policy, seed=5, selection="margin")
    few, own = measure_steps(bench, step_counts(bench, [2, STEPS])).rows
    loss, masking = build_synced(bench.args)
    evaluator = Evaluator(bench.args, loss.schedule, masking, bench.task, splits["test"], seed=5)
    for mode, outcome in evaluator.both(policy).items():
        found = getattr(own, mode)
        assert found.accuracy == outcome.accuracy("strict")
        assert found.forwards == outcome.forwards
    assert (few.label, few.steps) == ("2", 2) and few.greedy.forwards < own.greedy.forwards


def test_repetitions_average_each_problem_over_sampling_seeds(make_bench, make_policy, splits):
    policy = make_policy()
    bench = make_bench(policy, seed=5, repeats=3)
    (row,) = measure_steps(bench, {"2": 2}).rows
    args = replace(sampling_arguments(bench.args), max_timesteps=2)
    loss, masking = build_synced(args)
    runs = [
        Evaluator(args, loss.schedule, masking, bench.task, splits["test"], seed).run(policy, 0.8)
        for seed in (5, 6, 7)
    ]
    right = torch.tensor([run.strict for run in runs]).double().mean(dim=0)
    assert len({tuple(run.strict) for run in runs}) == 3
    assert vars(row.sampled.accuracy) == pytest.approx(vars(clustered_mean(right.tolist(), splits["test"]["cluster"])))
    assert row.sampled.forwards == pytest.approx(sum(run.forwards for run in runs) / 3)


def test_steps_that_blocks_do_not_divide_are_refused(make_bench):
    bench = make_bench(block_length=4, max_timesteps=4)
    with pytest.raises(ConfigError, match=r"divides generation\.steps=6"):
        step_counts(bench, [4, 6])


def test_a_step_costs_more_with_rk4_than_with_unipc_than_with_euler(make_bench, make_policy):
    bench = make_bench(endless(make_policy()))
    rows = measure_solvers(bench, step_counts(bench, [2, 4])).rows
    cost = {(row.solver, row.steps): row.sampled.forwards for row in rows}
    assert set(cost) == {(solver, steps) for solver in SOLVERS for steps in (2, 4)}
    for steps in (2, 4):
        euler, dpm, unipc, rk4 = (cost[name, steps] for name in ("euler", "dpm", "unipc", "rk4"))
        assert euler == dpm < unipc < rk4 <= 4 * euler
    assert [row.sampled.forwards for row in rows] == sorted(cost.values()), "neighbours can be compared"


def test_equal_numbers_of_steps_are_measured_once(make_bench):
    bench = make_bench()
    assert len(measure_solvers(bench, {"2": 2, FULL: 2}).rows) == len(SOLVERS)
    assert len(measure_exposure(bench, [1, 1]).rows) == 1
