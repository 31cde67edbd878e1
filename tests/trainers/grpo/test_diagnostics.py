"""The diagnostics have their closed forms, and the callback says once, by option, what to change."""

import math
import re
import sys
from dataclasses import fields

import pytest
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import TrainerControl, TrainerState, TrainingArguments

from trainers.grpo.diagnostics import (
    effective_sample_size,
    gradient_signal,
    noise_scale,
    rollout_mismatch,
)
from trainers.grpo.health import HEALTHY, WINDOW, DiagnosticsCallback, Range
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.model import ModelArguments
from trainers.settings.options import dotted
from trainers.settings.task import TaskArguments

SIZE = 200_000  # parameters of the synthetic gradients


# ---- gradient -------------------------------------------------------------------------------------------------------


def noisy(signal: float, generator: torch.Generator, size: int = SIZE):
    """Draws of a gradient with second moment 1 a parameter, of which `signal` is its mean's."""
    mean = signal**0.5 * (torch.randint(2, (size,), generator=generator) * 2.0 - 1)
    return lambda: mean + (1 - signal) ** 0.5 * torch.randn(size, generator=generator)


def adam_after(draw, steps: int, **options) -> torch.optim.AdamW:
    parameter = torch.nn.Parameter(torch.zeros_like(draw()))
    optimizer = torch.optim.AdamW([parameter], lr=0.0, **options)
    for _ in range(steps):
        parameter.grad = draw()
        optimizer.step()
    return optimizer


def standard_error(signal: float, steps: int, beta1: float = 0.9, beta2: float = 0.999) -> float:
    """Upper bound of the estimate's, by the delta method: Gaussian m^2 and g^2, as if their errors only added up."""

    def averaging(beta: float) -> float:
        weights = torch.tensor([beta**k for k in range(steps)], dtype=torch.float64)
        return (weights.square().sum() / weights.sum().square()).item()

    def squared(variance: float) -> float:  # variance of x^2, x normal with mean^2 = signal
        return 2 * variance**2 + 4 * signal * variance

    left, noise = averaging(beta1), 1 - signal
    of_first = squared(left * noise) ** 0.5
    of_second = (averaging(beta2) * squared(noise)) ** 0.5
    return (of_first + (left + (1 - left) * signal) * of_second) / (1 - left) / SIZE**0.5


@pytest.mark.parametrize("steps", [2, 5, 100])
@pytest.mark.parametrize("signal", [0.0, 0.2, 0.8])
def test_the_share_of_signal_is_read_from_adam_at_any_step(signal, steps):
    optimizer = adam_after(noisy(signal, torch.Generator().manual_seed(0)), steps)
    assert gradient_signal(optimizer) == pytest.approx(signal, abs=4 * standard_error(signal, steps))


def test_a_constant_gradient_is_all_signal():
    gradient = torch.tensor([1.0, -2.0, 3.0])
    assert gradient_signal(adam_after(lambda: gradient, 7)) == pytest.approx(1.0, abs=1e-5)


def test_groups_with_their_own_betas_and_steps_add_up():
    draws = noisy(0.8, torch.Generator().manual_seed(1)), noisy(0.0, torch.Generator().manual_seed(2))
    parameters = [torch.nn.Parameter(torch.zeros(SIZE)) for _ in draws]
    groups = [{"params": [parameters[0]]}, {"params": [parameters[1]], "betas": (0.5, 0.99)}]
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    for step in range(20):
        for i, draw in enumerate(draws):
            if i == 0 or step >= 15:  # the second group is trained later
                parameters[i].grad = draw()
        optimizer.step()
    errors = standard_error(0.8, 20) + standard_error(0.0, 5, 0.5, 0.99)
    assert gradient_signal(optimizer) == pytest.approx(0.4, abs=4 * errors)


def test_gradients_that_undo_each_other_have_less_than_no_signal():
    """Of +1, -1, +1 the weights .81, .9, 1 leave (.81 - .9 + 1) / 2.71 and, of noise, (.81^2 + .9^2 + 1) / 2.71^2."""
    flips = iter([1.0, 1.0, -1.0, 1.0])  # the first draw only shows its shape
    first, noise_left = (0.91 / 2.71) ** 2, 2.4661 / 2.71**2
    expected = (first - noise_left) / (1 - noise_left)
    assert gradient_signal(adam_after(lambda: torch.tensor([next(flips)]), 3)) == pytest.approx(expected, abs=1e-5)
    assert expected < 0


def test_the_optimizer_of_accelerate_is_seen_through():
    optimizer = adam_after(noisy(0.5, torch.Generator().manual_seed(4), size=100), 3)
    wrapped = Accelerator(cpu=True).prepare_optimizer(optimizer)
    assert wrapped is not optimizer
    assert gradient_signal(wrapped) == gradient_signal(optimizer) is not None


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))]),
        adam_after(lambda: torch.ones(3), 1),
        adam_after(lambda: torch.ones(3), 5, betas=(0.0, 0.99)),
        adam_after(lambda: torch.zeros(3), 5),
        torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], momentum=0.9),
    ],
    ids=["before any step", "first step", "no averaging", "only zeros", "not Adam"],
)
def test_where_signal_cannot_be_told_from_noise_there_is_no_number(optimizer):
    assert gradient_signal(optimizer) is None


def test_an_optimizer_without_a_second_moment_has_no_number():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adamax([parameter])
    for _ in range(3):
        parameter.grad = torch.ones(3)
        optimizer.step()
    assert gradient_signal(optimizer) is None


def test_the_noise_scale_is_the_batch_whose_gradient_is_half_signal():
    assert noise_scale(0.5, 128) == 128
    of_sequence = 300.0  # tr(Sigma) / |G|^2
    for batch in (1, 64, 1000):
        assert noise_scale(1 / (1 + of_sequence / batch), batch) == pytest.approx(of_sequence)


@pytest.mark.parametrize(("signal", "scale"), [(0.0, math.inf), (-0.01, math.inf), (1.0, 0.0), (1.01, 0.0)])
def test_the_noise_scale_at_the_ends_of_the_estimate(signal, scale):
    assert noise_scale(signal, 128) == scale


# ---- ratio and replay -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_ratio", "weight", "expected"),
    [
        ([0.0, 0.0, 0.0], None, 1.0),
        ([0.0, math.log(3)], None, 0.8),  # (1 + 3)^2 / (2 (1 + 9))
        ([0.0, math.log(3)], [2.0, 1.0], 25 / 33),  # (2 + 3)^2 / (3 (2 + 9))
        ([1000.0, 0.0, 0.0, 0.0], None, 0.25),
        ([-1000.0, -1000.0, -3000.0, -math.inf], None, 0.5),
        ([1000.0, 0.0, 0.0], [0.0, 1.0, 1.0], 1.0),
        ([], None, 1.0),
        ([1.0, 2.0], [0.0, 0.0], 1.0),
    ],
)
def test_the_effective_sample_size_has_its_closed_form(log_ratio, weight, expected):
    weight = None if weight is None else torch.tensor(weight)
    assert effective_sample_size(torch.tensor(log_ratio), weight) == pytest.approx(expected)


def test_the_effective_sample_size_of_lognormal_ratios():
    """exp(-sigma^2), here at sigma = 1/2 and on the normal's quantiles in place of draws."""
    quantiles = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    assert effective_sample_size(quantiles / 2) == pytest.approx(math.exp(-0.25), abs=1e-3)


def test_a_weight_stands_for_that_many_copies_and_a_common_factor_cancels():
    generator = torch.Generator().manual_seed(5)
    log_ratio, weight = torch.randn(20, generator=generator), torch.randint(1, 4, (20,), generator=generator)
    copies = effective_sample_size(log_ratio.repeat_interleave(weight))
    assert effective_sample_size(log_ratio, weight) == pytest.approx(copies)
    assert effective_sample_size(log_ratio.double() + 500, 7.0 * weight) == pytest.approx(copies)


@pytest.mark.parametrize(
    ("weight", "message"), [([1.0, 1.0, 1.0], r"shape \(3,\).*expected \(2,\)"), ([1.0, -0.5], "smallest -0.5")]
)
def test_a_weight_that_cannot_be_one_is_named(weight, message):
    with pytest.raises(ValueError, match=message):
        effective_sample_size(torch.zeros(2), torch.tensor(weight))


def test_the_mismatch_is_that_of_the_scored_tokens():
    replayed = torch.tensor([[-1.0, -2.0, math.nan], [-0.5, -3.0, -9.0]])
    recorded = torch.tensor([[-1.5, -2.0, 0.0], [-0.5, -1.0, 0.0]])
    scored = torch.tensor([[True, True, False], [False, True, False]])
    assert rollout_mismatch(replayed, recorded, scored) == pytest.approx((2.5 / 3, 2.0))


def test_without_scored_tokens_nothing_is_apart():
    assert rollout_mismatch(torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)) == (0.0, 0.0)


def test_a_mismatch_of_shapes_is_named():
    with pytest.raises(ValueError, match=r"\(2, 3\), \(2, 3\), \(2, 1\)"):
        rollout_mismatch(torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2, 1, dtype=torch.bool))


# ---- ranges and callback --------------------------------------------------------------------------------------------


def test_every_advice_names_options_that_exist():
    known = {dotted(f) for cls in (ImprovedDiffuGRPOConfig, ModelArguments, TaskArguments) for f in fields(cls)}
    for name, healthy in HEALTHY.items():
        named = set(re.findall(r"`(.*?)`", healthy.advice))
        assert named, name
        assert named <= known, name


@pytest.mark.parametrize(
    ("healthy", "inside", "outside", "text"),
    [
        (Range(1.0, None, ""), [1.0, math.inf], [0.9, math.nan], "at least 1"),
        (Range(None, 2.0, ""), [2.0, -math.inf], [2.1, math.nan], "at most 2"),
        (Range(1.0, 2.0, ""), [1.0, 1.5, 2.0], [0.0, 3.0], "at least 1 and at most 2"),
    ],
)
def test_a_range_holds_its_ends_and_no_nan(healthy, inside, outside, text):
    assert all(value in healthy for value in inside)
    assert not any(value in healthy for value in outside)
    assert str(healthy) == text


ARGUMENTS = TrainingArguments(use_cpu=True)


@pytest.fixture
def feed(caplog):
    """Give a callback rows of the log with these values of a metric; returns the lines that this brought."""

    def rows(callback: DiagnosticsCallback, name: str, values: list[float], main_process: bool = True) -> list[str]:
        caplog.clear()
        for step, value in enumerate(values):
            state = TrainerState(global_step=step, is_world_process_zero=main_process)
            callback.on_log(ARGUMENTS, state, TrainerControl(), logs={name: value})
        return caplog.messages

    return rows


BAD = {"diagnostics/gradient_signal": -0.1, "diagnostics/ratio_ess": 0.1, "diagnostics/rollout_mismatch": 1.0}
BAD |= {"frac_reward_zero_std": 1.0, "kl": 2.0, "ratio_log_max": 9.0}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_metric_out_of_range_is_named_once_with_value_range_and_options(name, feed):
    lines = feed(DiagnosticsCallback(), name, [BAD[name]] * (3 * WINDOW))
    assert len(lines) == 1
    assert f"step {WINDOW - 1}: {name} averages {BAD[name]:g}" in lines[0]
    assert str(HEALTHY[name]) in lines[0]
    assert HEALTHY[name].advice in lines[0]
    assert "\n" not in lines[0]


def test_a_healthy_run_is_silent(feed):
    callback = DiagnosticsCallback()
    assert feed(callback, "diagnostics/ratio_ess", [0.9] * 20) == []
    assert feed(callback, "diagnostics/gradient_signal", [0.01] * 20) == []
    assert feed(callback, "kl", [0.1] * 20) == []
    assert feed(callback, "diagnostics/gradient_noise_scale", [math.inf] * 20) == []
    assert feed(callback, "diagnostics/likelihood_gap", [5.0] * 20) == []


def test_only_the_mean_of_a_full_window_counts(feed):
    assert feed(DiagnosticsCallback(), "kl", [9.0] * (WINDOW - 1)) == []
    assert feed(DiagnosticsCallback(), "kl", [0.0, 0.0, 2.4, 0.0, 0.0, 0.0]) == []
    assert len(feed(DiagnosticsCallback(), "kl", [0.0, 0.0, 2.6, 0.0, 0.0, 0.0])) == 1


def test_rows_without_the_metric_are_not_counted(feed):
    callback = DiagnosticsCallback()
    feed(callback, "kl", [2.0] * (WINDOW - 1))
    assert feed(callback, "eval_kl", [2.0] * WINDOW) == []
    assert len(feed(callback, "kl", [2.0])) == 1


def test_a_metric_that_has_been_back_in_range_is_named_again(feed):
    callback = DiagnosticsCallback()
    assert len(feed(callback, "kl", [2.0] * WINDOW)) == 1
    assert feed(callback, "kl", [0.0, 2.0, 2.0, 2.0, 2.0]) == []  # the mean never came back
    assert feed(callback, "kl", [0.0] * WINDOW) == []
    assert len(feed(callback, "kl", [2.0] * WINDOW)) == 1


def test_a_number_that_is_none_is_out_of_range(feed):
    assert len(feed(DiagnosticsCallback(), "kl", [math.nan] * WINDOW)) == 1


def test_metrics_are_judged_apart(feed):
    callback = DiagnosticsCallback()
    assert len(feed(callback, "kl", [2.0] * WINDOW)) == 1
    assert len(feed(callback, "ratio_log_max", [9.0] * WINDOW)) == 1


def test_a_new_run_starts_anew(feed):
    callback = DiagnosticsCallback()
    feed(callback, "kl", [2.0] * WINDOW)
    callback.on_train_begin(ARGUMENTS, TrainerState(), TrainerControl())
    assert feed(callback, "kl", [2.0] * (WINDOW - 1)) == []
    assert len(feed(callback, "kl", [2.0])) == 1


def test_other_processes_are_silent(feed):
    assert feed(DiagnosticsCallback(), "kl", [2.0] * WINDOW, main_process=False) == []


def test_the_warning_has_a_line_of_its_own_above_the_progress_bar(feed, capsys):
    with tqdm(total=9, file=sys.stderr, mininterval=0) as bar:
        bar.update(3)
        feed(DiagnosticsCallback(), "kl", [2.0] * WINDOW)
    written = capsys.readouterr().err
    assert re.search(r" \rwarning: step 4: kl [^\n]*\n\r? *33%", written)
