"""What every measurement of a bench keeps to: settings it takes, randomness, rows, numbers that repeat."""

from dataclasses import replace

import pytest
import torch
from benches import CANVAS

from core.flow import ODE_SOLVERS
from trainers.settings.options import ConfigError
from trainers.studies.measurements.decoding import measure_solvers, measure_steps, step_counts
from trainers.studies.measurements.exposure import measure_exposure
from trainers.studies.measurements.steps import FULL


@pytest.mark.parametrize("table", ["exposure", "solvers"])
def test_masks_without_timesteps_are_refused(make_bench, make_args, grpo_args, table):
    args = grpo_args(masking_strategy_type="full", max_completion_length=CANVAS)
    bench = replace(make_bench(), args=args)
    with pytest.raises(ConfigError, match=r"masking\.strategy_type='full'"):
        measure_exposure(bench, [1]) if table == "exposure" else measure_solvers(bench, {"2": 2})
    assert measure_steps(bench, {"2": 2}).rows, "counts need no timesteps"


def test_a_config_for_rollouts_and_another_sampler_can_be_measured(make_bench, grpo_args):
    args = grpo_args(max_completion_length=CANVAS, sampler="ancestral", solver="unipc")
    assert args.nelbo_source == "rollout"
    bench = replace(make_bench(), args=args)
    assert (
        measure_exposure(bench, [1]).rows
        and measure_steps(bench, {"2": 2}).rows
        and measure_solvers(bench, {"2": 2}).rows
    )


def test_a_flow_is_measured_by_its_ode(make_bench):
    bench = make_bench(prediction_type="flow_matching", solver="unipc")
    exposure = measure_exposure(bench, [1])
    assert not exposure.rows and "a flow hides no tokens" in exposure.notes[0]

    counts = step_counts(bench, [2, 4, FULL])
    steps = measure_steps(bench, counts)
    assert [row.steps for row in steps.rows] == [2, 4] and "unipc" in steps.title
    assert steps.notes == ["full is left out: a flow moves all tokens at once"]

    rows = measure_solvers(bench, counts).rows
    by = {(row.solver, row.steps): row.sampled for row in rows}
    assert set(by) == {(solver, steps) for solver in ODE_SOLVERS for steps in (2, 4)}
    for row in steps.rows:
        same = by["unipc", row.steps]
        assert (row.sampled.accuracy, row.sampled.forwards) == (same.accuracy, same.forwards)
        assert by["rk4", row.steps].forwards > by["euler", row.steps].forwards


@pytest.mark.parametrize("training", [True, False])
def test_policy_and_global_randomness_are_left_as_they_were(make_bench, make_policy, training):
    policy = make_policy()
    policy.model.train(training)
    modes = []
    policy.model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    before = torch.get_rng_state()
    bench = make_bench(policy)
    measure_exposure(bench, [2]), measure_steps(bench, {"2": 2}), measure_solvers(bench, {"2": 2})
    assert policy.model.training is training
    assert modes and not any(modes), "measured in eval mode"
    assert torch.equal(torch.get_rng_state(), before)


def test_measurements_repeat(make_bench):
    def numbers():
        bench = make_bench(seed=1)
        found = [measure_exposure(bench, [2]), measure_steps(bench, {"2": 2}), measure_solvers(bench, {"2": 2})]
        texts = [row.cells() for table in found for row in table.rows]
        return [text[:-1] for text in texts]  # seconds come last

    assert numbers() == numbers()


def test_rows_have_a_cell_for_every_heading(make_bench):
    bench = make_bench()
    for found in (measure_exposure(bench, [0, 1]), measure_steps(bench, {"2": 2}), measure_solvers(bench, {"2": 2})):
        assert all(len(row.cells()) == len(row.HEADINGS) for row in found.rows)
