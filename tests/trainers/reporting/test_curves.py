"""Pictures have their size, show every metric they are given, and can be drawn without any."""

import math

import pytest
from reports import FLOW, ROLLED_OUT, cells, entry, grpo_log, held_out, ink, sft_log, write

from trainers.reporting.curves import curves_png, sft_curves_png


def test_curves_are_a_real_picture_of_1200_by_900(tmp_path):
    curves_png(grpo_log(), tmp_path / "full.png", held_out())
    curves_png([], tmp_path / "empty.png", None)
    size, full = ink(tmp_path / "full.png")
    assert size == (1200, 900)
    assert full > ink(tmp_path / "empty.png")[1] + 1000


@pytest.mark.parametrize("change", [{"reward": 0.1}, {"nelbo": 7.0}, {"nelbo_standard_error": 9.0}, {"kl": 0.2}])
def test_every_panel_shows_its_metric(tmp_path, change):
    curves_png(grpo_log(**({"kl": 0.1} if "kl" in change else {})), tmp_path / "one.png", held_out())
    curves_png(grpo_log(**change), tmp_path / "two.png", held_out())
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize("ends", [(-math.inf, math.inf), (None, None)], ids=["infinite", "read from JSON"])
def test_an_interval_without_finite_ends_can_be_drawn(tmp_path, ends):
    curves_png([], tmp_path / "one.png", {"after": {"greedy strict": entry(0.5, *ends)}})
    assert ink(tmp_path / "one.png")[1] > 1000


def test_sft_curves_show_validation_only_when_there_was_one(tmp_path):
    sft_curves_png(sft_log(), tmp_path / "with.png")
    sft_curves_png([row for row in sft_log() if "eval_loss" not in row], tmp_path / "without.png")
    assert ink(tmp_path / "with.png")[0] == (1200, 500)
    assert ink(tmp_path / "with.png")[1] > ink(tmp_path / "without.png")[1]


def test_sft_curves_show_the_loss_at_rolled_out_states_beside_the_bound(tmp_path):
    pictures = [{}, ROLLED_OUT, ROLLED_OUT | {"scheduled_sampling/nelbo_rolled_out": 110.0}]
    for i, metrics in enumerate(pictures):
        sft_curves_png(sft_log(**metrics), tmp_path / f"{i}.png")
        assert ink(tmp_path / f"{i}.png")[0] == (1200, 500)
    assert ink(tmp_path / "1.png")[1] > ink(tmp_path / "0.png")[1] + 500
    assert (tmp_path / "1.png").read_bytes() != (tmp_path / "2.png").read_bytes()


def test_sft_curves_of_a_flow_show_its_cross_entropy_in_place_of_the_bound(tmp_path):
    on_own = {"scheduled_sampling/cross_entropy_rolled_out": 2.5}
    pictures = [FLOW, FLOW | {"cross_entropy": 2.0}, FLOW | on_own, FLOW | {"nelbo": 100.0}]
    for i, metrics in enumerate(pictures):
        sft_curves_png(sft_log(**metrics), tmp_path / f"{i}.png")
    # equal values fill the same panel: the axes differ, and the bound is not drawn at all
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()
    assert ink(tmp_path / "2.png")[1] > ink(tmp_path / "0.png")[1] + 500
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "3.png").read_bytes()


def test_a_supervised_run_gets_the_supervised_picture(tmp_path):
    report = write(tmp_path, log_history=sft_log())
    assert ink(tmp_path / "curves.png")[0] == (1200, 500)
    assert cells(report, "100") == ["100", "2", "100"]


@pytest.mark.parametrize("key", ["eval_reward", "eval_accuracy/strict"])
def test_validation_during_training_is_a_curve_beside_the_rewards(tmp_path, key):
    log = [row for row in grpo_log() if "eval_reward" not in row]
    for name, more in (("without", []), ("with", [{"step": 100, key: 0.4}, {"step": 200, key: 0.6}])):
        curves_png([*log, *more], tmp_path / f"{name}.png", None)
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


@pytest.mark.parametrize("error", [0.0, None])
def test_a_bound_without_an_error_has_no_band(tmp_path, error):
    curves_png(grpo_log(nelbo_standard_error=error), tmp_path / "without.png", None)
    curves_png(grpo_log(), tmp_path / "with.png", None)
    assert ink(tmp_path / "with.png")[1] > ink(tmp_path / "without.png")[1] + 500
