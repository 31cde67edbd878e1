"""A reward that rises while strict accuracy falls is flagged, in a real run too; noise is not."""

import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.reporting.report import write_report
from trainers.rewarding.hacking import BLOCKS, PARTS, change_of, fell_on_held_out, reward_summary, trends_of
from trainers.rewarding.log import STRICT, Failures, RewardLog
from trainers.rewarding.watch import FIRST_LOOK, RewardHackingCallback
from trainers.tasks.verdicts import Verdict

ROWS = 100
SEEDS = 1000


def log_of(rewards, accuracies):
    """Rows with two rewards, one of which never moves."""
    return [
        {
            "step": step,
            "rewards/hackable/mean": reward,
            "rewards/still/mean": 0.5,
            "reward": reward + 0.5,
            STRICT: right,
        }
        for step, (reward, right) in enumerate(zip(rewards, accuracies, strict=True))
    ]


def noise(seed, rows=ROWS, correlation=0.0, size=2):
    """Stationary rows (rows, size), each correlated with the one before it."""
    innovations = np.random.default_rng(seed).standard_normal((rows, size))
    values = innovations.copy()
    for i in range(1, rows if correlation else 1):
        values[i] = correlation * values[i - 1] + math.sqrt(1 - correlation**2) * innovations[i]
    return values


def line(start, end, rows=ROWS):
    return np.linspace(start, end, rows)


def flagged(log):
    return reward_summary(log, {})["flagged"]


# --- the rule -----------------------------------------------------------------------------------------------------


def test_start_and_end_are_the_means_of_the_first_and_the_last_fifth():
    change = change_of([1.0, 2.0, 3.0, 4.0, 5.0] * 2 + [9.0] * 30 + [3.0, 4.0, 5.0, 6.0, 7.0] * 2)
    assert (change.start, change.end) == (3.0, 5.0)
    # means of two rows: 1.5, 3.5, 3, 2.5, 4.5 of variance 1.25, at either end; each mean's error^2 is a fifth of it
    assert change.error == pytest.approx(math.sqrt(2 * 1.25 / 5))
    assert change.rises(2.0) and not change.falls(2.0) and not change.rises(3.0)


def test_errors_are_those_of_dependent_rows():
    """Blocks see what rows that go together do to a mean: the spread of such means over seeds."""
    errors, means = [], []
    for seed in range(300):
        values = noise(seed, rows=400, correlation=0.5, size=1)[:, 0]
        errors.append(change_of(values).error ** 2)
        means.append(change_of(values).end - change_of(values).start)
    independent = math.sqrt(2 / 80)
    # blocks of 16 rows miss some of it: 9 parts of 10
    assert math.sqrt(np.mean(errors)) == pytest.approx(np.std(means), rel=0.15)
    assert np.std(means) > 1.5 * independent


def test_a_short_log_is_shown_and_not_judged():
    rows = PARTS * BLOCKS - 1
    (trend, *_) = trends_of(log_of(line(0, 1, rows), line(1, 0, rows)))
    assert trend.change.end > trend.change.start and trend.change.error == math.inf and not trend.hacked
    assert flagged(log_of(line(0, 1, rows + 1), line(1, 0, rows + 1))) == ["hackable", "reward"]


# --- flags --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_a_reward_that_rises_while_accuracy_falls_is_flagged(seed):
    jitter = 0.1 * noise(seed)
    log = log_of(line(0.2, 0.8) + jitter[:, 0], line(0.6, 0.3) + jitter[:, 1])
    assert flagged(log) == ["hackable", "reward"]
    (hackable, still, total) = trends_of(log)
    assert hackable.correlation < -0.4 and total.correlation == pytest.approx(hackable.correlation)
    assert still.correlation is None and still.change.value == 0


@pytest.mark.parametrize("ends", [((0.2, 0.8), (0.3, 0.6)), ((0.8, 0.2), (0.6, 0.3)), ((0.2, 0.8), (0.5, 0.5))])
def test_no_other_trend_is_flagged(ends):
    jitter = 0.02 * noise(0)
    assert (
        flagged(log_of(line(*ends[0]) + jitter[:, 0], line(*ends[1]) + jitter[:, 1] * (ends[1] != (0.5, 0.5)))) == []
    )


@pytest.mark.parametrize("rows", [25, 100, 200])
def test_false_alarms_on_noise_are_rare(rows):
    """Without any trend: a reward and an accuracy apart, and the worst case, each the other's mirror image."""
    apart = mirrored = 0
    for seed in range(SEEDS):
        first, second = (change_of(values) for values in noise(seed, rows).T)
        apart += first.rises(2.0) and second.falls(2.0)
        mirrored += first.rises(2.0)
    # Student's t with at most 8 degrees of freedom is beyond 2 in 4 of 100 to either side, in 6 with 4 of them
    assert apart <= 0.01 * SEEDS and mirrored <= 0.07 * SEEDS
    assert mirrored > 0.01 * SEEDS  # it is noise that it looks at


def test_a_fall_on_held_out_problems_flags_a_rising_reward_too():
    log = log_of(line(0.2, 0.8), [0.5] * ROWS)
    fell = {"difference": {"sampled strict": {"value": -0.2, "low": -0.3, "high": -0.1}}}
    unclear = {"difference": {"sampled strict": {"value": -0.2, "low": -0.5, "high": 0.1}}}
    assert fell_on_held_out(fell) and reward_summary(log, fell)["flagged"] == ["hackable", "reward"]
    assert not fell_on_held_out(unclear) and reward_summary(log, unclear)["flagged"] == []
    assert not fell_on_held_out({})


def test_rows_without_accuracy_are_no_rows():
    log = log_of(line(0.2, 0.8), line(0.6, 0.3))
    for row in log[::2]:
        row[STRICT] = None  # transformers logs None for NaN
    log[1].pop("rewards/hackable/mean")
    assert flagged([*log, {"eval_reward": 1.0}]) == ["hackable", "reward"]
    assert trends_of([{"reward": 1.0}]) == []


# --- during the run -----------------------------------------------------------------------------------------------


def warnings_of(log, caplog):
    callback, history = RewardHackingCallback(), []
    state = SimpleNamespace(is_world_process_zero=True, log_history=history, global_step=0)
    callback.on_train_begin(None, state, None)
    caplog.clear()
    for row in log:
        history.append(row)
        state.global_step = row["step"]
        callback.on_log(None, state, None)
    return [record.getMessage() for record in caplog.records]


def test_hacking_is_warned_of_while_it_happens_once_a_reward(caplog):
    jitter = 0.02 * noise(0)
    log = log_of(line(0.2, 0.8) + jitter[:, 0], line(0.6, 0.3) + jitter[:, 1])
    told = sorted(warnings_of(log, caplog))
    assert len(told) == 2 and all(f"step {FIRST_LOOK - 1}: " in text and "\n" not in text for text in told)
    assert "reward 'hackable' rose from" in told[0] and "the total reward rose from" in told[1]
    assert warnings_of(log_of(line(0.2, 0.8), line(0.3, 0.6)), caplog) == []


def test_looking_often_raises_few_false_alarms(caplog):
    caplog.set_level(logging.WARNING)
    alarms = sum(bool(warnings_of(log_of(*noise(seed, 200).T), caplog)) for seed in range(100))
    assert alarms <= 1


# --- a run --------------------------------------------------------------------------------------------------------


def share_of_sevens(completions, **kwargs):
    return [text.count("7") / max(len(text), 1) for text in completions]


def has_another_digit(completion, answer):
    return Verdict(strict=any(digit in completion for digit in "0123"), lenient=True)


def test_a_run_that_hacks_its_reward_is_flagged_in_report_and_picture(make_grpo, tmp_path, caplog):
    class Hackable(ImprovedDiffuGRPOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, verify=has_another_digit, **kwargs)

    trainer = make_grpo(
        cls=Hackable, reward=share_of_sevens, max_steps=60, num_generations=8, per_device_train_batch_size=32
    )
    trainer.train()
    out, log = tmp_path / "out", trainer.state.log_history
    held_out = {
        "before": {"sampled strict": {"value": 0.4, "low": 0.3, "high": 0.5}},
        "after": {"sampled strict": {"value": 0.1, "low": 0.0, "high": 0.2}},
        "difference": {"sampled strict": {"value": -0.3, "low": -0.4, "high": -0.2}},
    }
    report = write_report(
        out, title="t", command="c", settings={}, environment={}, log_history=log, held_out=held_out, samples=[],
        seconds={}, notes=[],
    ).read_text()  # fmt: skip
    rewards = json.loads((out / "results.json").read_text())["rewards"]
    assert rewards["flagged"] == ["share_of_sevens", "reward"] and rewards["weights"] == {"share_of_sevens": 1.0}
    sevens, _ = rewards["trends"]
    assert sevens["change"]["end"] > sevens["change"]["start"] and sevens["correlation"] < -0.5
    assert rewards["strict_accuracy"]["end"] < rewards["strict_accuracy"]["start"]
    table = report.split("## Rewards and strict accuracy")[1].split("##")[0]
    assert "| share_of_sevens | 1 |" in table and "rises while strict accuracy falls" in table
    assert "these rise: share_of_sevens, the total." in table
    assert "| strict accuracy held out, sampled [95%] | – | 0.400 | 0.100 | -0.300 [-0.400, -0.200] |" in table  # noqa: RUF001
    assert any("'share_of_sevens' rose from" in record.getMessage() for record in caplog.records)
    with Image.open(out / "curves.png") as image:
        panel = np.asarray(image.convert("RGB").crop((80, 40, 590, 380))).astype(int)
    black_dashes = (panel.max(axis=2) < 60) & (panel.max(axis=2) - panel.min(axis=2) < 10)
    assert black_dashes.sum() > 200


def test_failures_are_a_table_of_the_report(tmp_path):
    failures = {"reward": "hackable", "kind": "timed out", "calls": 3, "completions": 2, "step": 7}
    failures |= {"message": "no answer", "completion": "'a|b'"}
    log = RewardLog(tmp_path, {"hackable": 0.5})
    log.begin(resumed=False)
    log.add([Failures(**failures)])
    report = write_report(
        tmp_path, title="t", command="c", settings={}, environment={}, log_history=log_of([0.0], [0.0]),
        held_out=None, samples=[], seconds={}, notes=[],
    ).read_text()  # fmt: skip
    assert "| hackable | timed out | 3 | 2 | 7 | no answer | 'a\\|b' |" in report
    assert "| hackable | 0.5 | 0.000 | 0.000 | +0.000 ± unknown |" in report
    assert json.loads((tmp_path / "results.json").read_text())["rewards"]["failures"][0]["calls"] == 3
