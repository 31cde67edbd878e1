"""One schedule: its values, its closed grid, and that masks and weights share it."""

import math

import pytest
import torch
from toys import TableDenoiser, levels, prompts, rng, sampler, synced

import core.alpha_schedule
import core.masking_strategy
from core.alpha_schedule import SCHEDULES, AlphaSchedule, assert_schedules_consistent, sync_masking_with_nelbo
from core.masking_strategy import DiffusionMaskingStrategy, FullMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.oracles.exact import conditional_logps, exact_log_likelihood, exact_nelbo

ENDS = [(0.01, 0.99), (0.0, 1.0), (0.2, 1.0), (0.0, 0.7)]
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_end = pytest.mark.parametrize("ends", ENDS)


def sqrt(u: torch.Tensor, alpha_min: float, alpha_max: float) -> torch.Tensor:
    """A schedule that the library does not have."""
    return (1 - alpha_max) + (alpha_max - alpha_min) * u.sqrt()


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "alpha"), [(0, 0.99), (16, 0.9527), (32, 0.8465), (64, 0.50), (96, 0.1535), (128, 0.01)]
)
def test_cosine_has_the_published_values(t, alpha):
    assert AlphaSchedule("cosine").alpha(t).item() == pytest.approx(alpha, abs=5e-5)


@every_end
def test_schedules_have_their_closed_forms(ends):
    alpha_min, alpha_max = ends
    closed = {
        "cosine": lambda u: alpha_min + (alpha_max - alpha_min) * math.cos(math.pi / 2 * u) ** 2,
        "linear": lambda u: alpha_max - (alpha_max - alpha_min) * u,
        "exponential": lambda u: min(max(alpha_max * math.exp(-3 * u), alpha_min), alpha_max),
    }
    for name, formula in closed.items():
        schedule = AlphaSchedule(name, 10, *ends)
        expected = [formula(t / 10) for t in range(11)]
        assert schedule.alpha(torch.arange(11)).tolist() == pytest.approx(expected, abs=1e-12)


@every_schedule
def test_mask_prob_is_positive_where_one_minus_alpha_rounds_to_zero(name):
    t = torch.tensor(1e-9, dtype=torch.float64)
    mask_prob = AlphaSchedule(name, 1, 0.0, 1.0).continuous_mask_prob(t)
    assert 0 < mask_prob < 1e-8


@every_schedule
def test_integer_timesteps_lie_on_the_continuous_curve(name):
    schedule = AlphaSchedule(name, 12)
    t = torch.arange(13)
    assert torch.equal(schedule.mask_prob(t), schedule.continuous_mask_prob(t.double()))


# ---- the closed grid ------------------------------------------------------------------------------------------------


@every_end
@every_schedule
def test_grid_falls_from_all_masked_to_clean(name, ends):
    schedule = AlphaSchedule(name, 16, *ends)
    grid = levels(schedule)
    assert list(schedule.timesteps) == list(range(-1, 18))
    assert grid[0] == 0 and grid[-1] == 1
    assert bool((grid.diff() >= 0).all())
    assert grid[1].item() == pytest.approx(1 - ends[1])


@every_end
@every_schedule
def test_widths_sum_to_one(name, ends):
    schedule = AlphaSchedule(name, 16, *ends)
    assert schedule.width(torch.tensor(schedule.timesteps[1:])).sum().item() == pytest.approx(1.0, abs=1e-12)


@every_end
@every_schedule
def test_staying_masked_composes_over_transitions(name, ends):
    schedule = AlphaSchedule(name, 16, *ends)
    for t in schedule.timesteps:
        for to in range(-1, t + 1):
            path = 1 - schedule.reveal_prob(torch.arange(to + 1, t + 1))
            expected = 0.0 if schedule.mask_prob(t) == 0 else 1 - path.prod().item()
            assert schedule.reveal_prob(t, to).item() == pytest.approx(expected, abs=1e-12)


@every_end
@every_schedule
def test_importance_weight_times_nelbo_weight_is_one_over_mask_prob(name, ends):
    schedule = AlphaSchedule(name, 16, *ends)
    t = torch.tensor(schedule.timesteps[1:])
    assert torch.allclose(schedule.nelbo_weight(t) * schedule.mask_prob(t), schedule.width(t), atol=1e-15)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_zero_width_end_transitions_drop_out(name):
    schedule = AlphaSchedule(name, 8, 0.0, 1.0)
    for t in (0, 9):  # alpha_0 = 1 and alpha_T = 0: nothing is left to reveal at either end
        assert schedule.width(t) == 0 and schedule.nelbo_weight(t) == 0
    u = torch.linspace(0, 1, 10_001, dtype=torch.float64)[1:]
    assert set(schedule.transition_at(u).tolist()) == set(range(1, 9))
    table = conditional_logps(TableDenoiser(), torch.tensor([1]), torch.tensor([0, 2, 1]))
    assert torch.isfinite(exact_nelbo(table, schedule)) and torch.isfinite(exact_log_likelihood(table, schedule))


@every_end
@every_schedule
def test_transition_is_drawn_with_probability_equal_to_its_width(name, ends):
    schedule = AlphaSchedule(name, 7, *ends)
    n = 100_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # an even lattice: shares are right to one point per edge
    counts = schedule.transition_at(u).bincount(minlength=9)
    widths = schedule.width(torch.arange(9))
    assert bool(((counts / n - widths).abs() <= 1.5 / n).all())


@every_end
@every_schedule
def test_transition_intervals_are_closed_at_the_noisier_end(name, ends):
    schedule = AlphaSchedule(name, 7, *ends)
    occurring = [t for t in range(9) if schedule.width(t) > 0]
    for t, following in zip(occurring, [*occurring[1:], None], strict=True):
        edge = schedule.mask_prob(t)
        assert schedule.transition_at(edge).item() == t
        if following is not None:
            assert schedule.transition_at(torch.nextafter(edge, torch.ones_like(edge))).item() == following


# ---- one function, one line -----------------------------------------------------------------------------------------


def test_a_new_schedule_is_one_function_and_one_line(monkeypatch):
    monkeypatch.setitem(SCHEDULES, "sqrt", sqrt)
    masking, nelbo = synced("sqrt", steps=8, source="forward", num_draws=2)
    assert masking.schedule.mask_prob(2).item() == pytest.approx(0.01 + 0.98 * 0.5)
    noisy, p_mask = masking.forward_process(
        torch.zeros(1, 6, dtype=torch.int64), torch.zeros(6, dtype=torch.bool), 3, seed=0, timestep=2
    )
    assert noisy.shape == (1, 6) and p_mask.unique().item() == pytest.approx(0.5)
    ids = torch.tensor([[0, 2, 1]]).expand(4000, -1)
    estimate = nelbo(TableDenoiser(), masking, *prompts(4000), ids, rng())
    exact = exact_nelbo(conditional_logps(TableDenoiser(), prompts(1)[0][0], ids[0]), nelbo.schedule).item()
    bound = estimate.sequence_bound
    assert abs(bound.mean().item() - exact) < 3 * bound.std().item() / 4000**0.5
    left = {}
    sampler(TableDenoiser(), 16, "sqrt", 8).generate(
        *prompts(1), rng(), lambda t, ids: left.update({t: int((ids == 3).sum())})
    )
    assert left[2] == round(16 * 0.5)


@pytest.mark.parametrize(
    "formula",
    [
        lambda u, low, high: (1 - low) - (high - low) * u,  # alpha rises
        lambda u, low, high: 0.5 + u,  # leaves [0, 1]
        lambda u, low, high: u - 0.1,  # starts below 0
        lambda u, low, high: u / 0,  # not a number
    ],
)
def test_what_is_not_a_decreasing_alpha_is_refused(monkeypatch, formula):
    monkeypatch.setitem(SCHEDULES, "broken", formula)
    with pytest.raises(ValueError, match="broken"):
        AlphaSchedule("broken")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosin"}, "cosin.*cosine, linear, exponential"),
        ({"max_timesteps": 0}, "max_timesteps=0"),
        ({"alpha_min": -0.1}, "alpha_min=-0.1"),
        ({"alpha_max": 1.1}, "alpha_max=1.1"),
        ({"alpha_min": 0.5, "alpha_max": 0.5}, "alpha_min=0.5"),
    ],
)
def test_impossible_schedules_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AlphaSchedule(**arguments)


# ---- one schedule on both sides -------------------------------------------------------------------------------------

OTHERS = [
    {"alpha_schedule": "linear"},
    {"max_timesteps": 64},
    {"alpha_min": 0.02},
    {"alpha_max": 0.98},
]


@pytest.mark.parametrize("other", OTHERS)
def test_sync_leaves_both_sides_with_the_same_object(other):
    masking, nelbo = DiffusionMaskingStrategy(**other), TrajectoryNELBOLoss()
    kept = nelbo.schedule
    assert sync_masking_with_nelbo(masking, nelbo) is kept
    assert masking.schedule is kept and nelbo.schedule is kept
    assert_schedules_consistent(masking, nelbo)


@pytest.mark.parametrize("other", OTHERS)
def test_a_mismatch_is_an_error_that_lists_both_sides(other):
    masking, nelbo = DiffusionMaskingStrategy(**other), TrajectoryNELBOLoss()
    with pytest.raises(ValueError) as error:
        assert_schedules_consistent(masking, nelbo)
    assert str(masking.get_alpha_schedule_params()) in str(error.value)
    assert str(nelbo.schedule.params) in str(error.value)


@every_schedule
def test_both_sides_report_the_same_four_numbers_after_sync(name):
    masking, nelbo = DiffusionMaskingStrategy(), TrajectoryNELBOLoss(32, name, 0.1, 0.9)
    sync_masking_with_nelbo(masking, nelbo)
    params = masking.get_alpha_schedule_params()
    assert params == {"alpha_schedule": name, "max_timesteps": 32, "alpha_min": 0.1, "alpha_max": 0.9}
    assert params.items() <= nelbo.get_performance_stats().items()


def test_a_strategy_without_timesteps_has_nothing_to_tie():
    masking, nelbo = FullMaskingStrategy(), TrajectoryNELBOLoss()
    assert sync_masking_with_nelbo(masking, nelbo) is nelbo.schedule
    assert masking.schedule is None
    assert set(masking.get_alpha_schedule_params()) == set(nelbo.schedule.params)


@pytest.mark.parametrize("kind", [DiffusionMaskingStrategy, FullMaskingStrategy])
def test_unset_masking_of_prompts_follows_the_loss(kind):
    masking = kind()
    for source, rate in (("rollout", 0.0), ("forward", 0.3), ("rollout", 0.0)):
        sync_masking_with_nelbo(masking, TrajectoryNELBOLoss(source=source))
        assert masking.p_mask_prompt == rate
    asked = kind(p_mask_prompt=0.1)
    sync_masking_with_nelbo(asked, TrajectoryNELBOLoss(source="forward"))
    assert asked.p_mask_prompt == 0.1


@pytest.mark.parametrize("kind", [DiffusionMaskingStrategy, FullMaskingStrategy])
def test_masked_prompts_beside_a_replayed_rollout_are_refused(kind):
    masking, nelbo = kind(p_mask_prompt=0.3), TrajectoryNELBOLoss(source="rollout")
    with pytest.raises(ValueError, match=r"p_mask_prompt=0\.3: expected 0.*source='rollout'"):
        sync_masking_with_nelbo(masking, nelbo)
    masking.p_mask_prompt = 0.0
    sync_masking_with_nelbo(masking, nelbo)
    masking.p_mask_prompt = 0.2  # later, in a run: caught before the next rollout
    with pytest.raises(ValueError, match=r"p_mask_prompt=0\.2"):
        assert_schedules_consistent(masking, nelbo)


def test_sync_has_two_import_paths():
    assert core.masking_strategy.sync_masking_with_nelbo is core.alpha_schedule.sync_masking_with_nelbo


def test_schedules_are_equal_iff_their_parameters_are():
    schedules = [AlphaSchedule(n, t, *e) for n in SCHEDULES for t in (4, 8) for e in ENDS]
    assert len(set(schedules)) == len(schedules)
    assert AlphaSchedule("linear", 8) == AlphaSchedule("linear", 8) != AlphaSchedule("linear", 9)
