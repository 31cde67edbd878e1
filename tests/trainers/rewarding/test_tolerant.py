"""What failing rewards do to a GRPO run: nothing to its learning, and a line, a metric and a table to its reader."""

import json
import math

import pytest
import torch
from processes import launch
from trl.trainer.utils import nanstd
from watching import rollout_of, rows_of

from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.rewarding.failures import STALLED
from trainers.rewarding.log import Failures, RewardLog, read_rewards
from trainers.settings.options import ConfigError
from trainers.tasks.verdicts import Verdict

NAN = math.nan
FAILS = math.inf  # in the tables below: the reward fails here; NaN: it says None


FIRST = [1.0, 0.0, FAILS, 0.5, FAILS, FAILS, FAILS, FAILS]  # two groups of four; the second has none left


SECOND = [0.3, -0.2, 0.9, 0.1, 1.0, 2.0, 0.0, 0.25]


WEIGHTS = [2.0, 0.5]


def table(values, name):
    """A reward with these values, whatever the completions are."""

    def reward(completions, **kwargs):
        return [None if math.isnan(value) else value for value in values]

    reward.__name__ = name
    return reward


def seven(text, answer):
    return Verdict(strict="7" in text, lenient=True)


@pytest.fixture
def make(make_grpo):
    """A trainer with several rewards, and what else `FaultTolerantRewards` takes."""

    def build(*rewards, verify=None, reward_time_limit=0.5, **options):
        class Several(ImprovedDiffuGRPOTrainer):
            def __init__(self, policy, _, *args, **kwargs):
                super().__init__(
                    policy, list(rewards), *args, verify=verify, reward_time_limit=reward_time_limit, **kwargs
                )

        return make_grpo(cls=Several, **options)

    return build


def advantages(make, first, second, **options):
    trainer = make(table(first, "first"), table(second, "second"), reward_weights=WEIGHTS, **options)
    return rollout_of(trainer)["advantages"], trainer._metrics["train"]


def known(values):
    return torch.tensor([NAN if value == FAILS else value for value in values])


def grouped_mean(values):
    return values.view(2, 4).nanmean(dim=1).repeat_interleave(4)


# --- learning -----------------------------------------------------------------------------------------------------


def centred():
    """Advantages without a scale, each reward centred on what is known of it in its group; nothing where it failed."""
    parts = [weight * (v - grouped_mean(v)) for weight, v in zip(WEIGHTS, map(known, (FIRST, SECOND)), strict=True)]
    return sum(part.nan_to_num(0.0) for part in parts)


def test_a_failed_entry_pulls_neither_way_and_leaves_the_others_alone(make):
    found, _ = advantages(make, FIRST, SECOND, scale_rewards="none")
    assert torch.allclose(found, centred(), atol=1e-6)
    # the failed ones have the second reward's part alone
    second = torch.tensor(SECOND)
    assert torch.allclose(found[2], WEIGHTS[1] * (second[2] - second[:4].mean()), atol=1e-6)
    assert torch.allclose(found[4:], WEIGHTS[1] * (second[4:] - second[4:].mean()), atol=1e-6)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_scaling_multiplies_neutral_advantages_by_one_positive_number(make, scale):
    found, _ = advantages(make, FIRST, SECOND, scale_rewards=scale)
    of_scale = 4 if scale == "group" else 8
    for part, expected in zip(found.split(of_scale), centred().split(of_scale), strict=True):
        assert torch.allclose(part / part.norm(), expected / expected.norm(), atol=1e-5)
        assert part @ expected > 0


def test_normalised_rewards_are_normalised_by_what_is_known(make):
    found, _ = advantages(make, FIRST, SECOND, multi_objective_aggregation="normalize_then_sum")
    total = torch.zeros(8)
    for weight, values in zip(WEIGHTS, map(known, (FIRST, SECOND)), strict=True):
        deviation = nanstd(values.view(2, 4), dim=1).repeat_interleave(4)
        total += weight * ((values - grouped_mean(values)) / (deviation + 1e-4)).nan_to_num(0.0)
    assert torch.allclose(found, (total - total.mean()) / (total.std() + 1e-4), atol=1e-5)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_completions_without_any_value_are_left_out(make, scale):
    first, second = (
        [1.0, FAILS, 0.0, 0.5, FAILS, FAILS, FAILS, FAILS],
        [1.0, FAILS, 0.5, NAN, FAILS, FAILS, FAILS, NAN],
    )
    found, metrics = advantages(make, first, second, scale_rewards=scale)
    assert (found[[1, 4, 5, 6, 7]] == 0).all() and found.isfinite().all()
    total = torch.tensor([2.5, 0.25, 1.0])
    assert torch.equal(found[[0, 2, 3]].argsort(), total.argsort())
    assert found.sum().item() == pytest.approx(0, abs=1e-5)
    assert metrics["reward"] == [pytest.approx(total.mean().item())]


def test_none_on_purpose_stays_what_trl_makes_of_it(make):
    """It counts as 0 where another reward has a value, beside a failed entry too."""
    found, _ = advantages(make, [1.0, NAN, FAILS, 0.5, 3.0, NAN, FAILS, 1.5], SECOND, scale_rewards="none")
    first = torch.tensor([1.0, 0.0, 0.5, 0.5, 3.0, 0.0, 1.5, 1.5])  # 0.5: the mean of 1, 0 and 0.5
    second = torch.tensor(SECOND)
    total = WEIGHTS[0] * first + WEIGHTS[1] * second
    assert torch.allclose(found, total - grouped_mean(total), atol=1e-6)


def test_weights_of_wd1_are_zero_where_nothing_is_known(make):
    values = [3.0, FAILS, 0.0, 0.0, 1.0, 0.0, 0.0, FAILS]
    batch = rollout_of(make(table(values, "first"), advantage_weighting="wd1", likelihood="complementary"))
    weights = batch["advantages"]
    assert (weights[[1, 7]] == 0).all() and (weights[[0, 2, 4, 5]] != 0).all()


# --- a run --------------------------------------------------------------------------------------------------------


def explode(completions):
    raise ZeroDivisionError("no digits\nin this text")


def hang(completions):
    while True:
        pass


BAD_REWARDS = {
    "raised ZeroDivisionError": explode,
    "timed out": hang,
    "not finite": lambda texts: [NAN] * len(texts),
    "wrong type": lambda texts: ["good"] * len(texts),
    "wrong length": lambda texts: [1.0] * (len(texts) + 1),
}


@pytest.mark.parametrize("kind", BAD_REWARDS)
def test_a_run_goes_on_without_a_reward_that_fails_for_all(make, caplog, kind):
    def bad(completions, **kwargs):
        return BAD_REWARDS[kind](completions)

    trainer = make(bad, reward_time_limit=0.1, max_steps=STALLED, eval_strategy="steps", eval_steps=STALLED)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == STALLED
    for row in rows:
        assert row["loss"] == row["grad_norm"] == 0.0 and row["rewards/bad/failed"] == 1.0
        assert not {"reward", "reward_std", "rewards/bad/mean", "rewards/bad/std"} & row.keys()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    (failures,) = read_rewards(trainer.args.output_dir)["failures"]
    assert (failures["reward"], failures["kind"], failures["step"]) == ("bad", kind, STALLED)
    assert failures["calls"] == STALLED + 4 and failures["completions"] == 8 * (STALLED + 4)  # four in evaluation
    first, stalled = (record.getMessage() for record in caplog.records if record.name == "trainers.rewarding.failures")
    assert "step 0: reward 'bad' " in first and "\n" not in first
    assert f"'bad' failed for every completion of the last {STALLED} rollouts: nothing is learned" in stalled


def test_a_run_learns_from_what_is_left(make):
    def digits(completions, **kwargs):
        if any(sum(map(ord, text)) % 3 == 0 for text in completions):
            raise ValueError("one of them is poisonous")
        return [float(sum(map(str.isdigit, text))) for text in completions]

    trainer = make(digits, bad_at_times, max_steps=6, beta=0.1)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert any(0 < row["rewards/digits/failed"] < 1 for row in rows)
    assert any(row["grad_norm"] > 0 for row in rows)


def bad_at_times(completions, **kwargs):
    return [[0.0, NAN, math.inf, "no", None][len(text) % 5] for text in completions]


def test_logged_means_and_tables_count_known_values_only(make):
    values = [1.0, 0.0, FAILS, 0.5, FAILS, FAILS, FAILS, FAILS]
    trainer = make(table(values, "first"), table(SECOND, "second"))
    rollout_of(trainer)
    metrics = trainer._metrics["train"]
    assert metrics["rewards/first/mean"] == [0.5] and metrics["rewards/first/std"] == [0.5]
    assert metrics["rewards/first/failed"] == [5 / 8] and metrics["rewards/second/failed"] == [0.0]
    assert metrics["rewards/second/mean"] == [pytest.approx(sum(SECOND) / 8)]
    shown = list(trainer._logs["rewards"]["first"])
    assert [value for value in shown if not math.isnan(value)] == [1.0, 0.0, 0.5] and len(shown) == 8


def test_each_kind_is_warned_of_once_and_counted_always(make, caplog):
    trainer = make(table(FIRST, "first"))
    for _ in range(3):
        rollout_of(trainer)
    with_name = [record.getMessage() for record in caplog.records if record.name == "trainers.rewarding.failures"]
    assert len(with_name) == 1 and "'first' returned inf; allowed: a finite number, or None; 5 of 8" in with_name[0]
    assert trainer.reward_log.failures["first", "not finite"].completions == 15


# --- counts -------------------------------------------------------------------------------------------------------


def test_counts_start_with_a_run_and_go_on_when_it_is_resumed(tmp_path):
    def failure(step):
        return Failures("first", "timed out", calls=1, completions=2, step=step, message="slow", completion="'a'")

    def count(resumed, step):
        log = RewardLog(tmp_path, {"first": 2.0})
        log.begin(resumed)
        log.add([failure(step)])
        (entry,) = read_rewards(tmp_path)["failures"]
        return entry["calls"], entry["completions"], entry["step"]

    assert count(False, 3) == (1, 2, 3)
    assert count(True, 5) == (2, 4, 5)
    assert count(False, 1) == (1, 2, 1)
    assert read_rewards(tmp_path)["weights"] == {"first": 2.0}
    assert read_rewards(tmp_path / "elsewhere") == {}


# --- strict accuracy ----------------------------------------------------------------------------------------------


def test_strict_accuracy_of_rollouts_is_logged_whatever_is_rewarded(make):
    trainer = make(lambda completions, **kwargs: [0.0] * len(completions), verify=seven, max_steps=2, eval_steps=2)
    trainer.train()
    metrics = trainer.evaluate()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert all(0 <= row["accuracy/strict"] <= 1 and row["accuracy/failed"] == 0.0 for row in rows)
    rollout_of(trainer)
    texts = list(trainer._logs["completion"])[-8:]
    assert trainer._metrics["train"]["accuracy/strict"] == [pytest.approx(sum("7" in text for text in texts) / 8)]
    assert metrics is not None and any("eval_accuracy/strict" in row for row in trainer.state.log_history)


def test_a_verifier_that_fails_is_counted_and_rewards_nothing(make):
    def verify(text, answer):
        if len(text) % 2:
            raise RecursionError("too deep")
        return Verdict(strict=True, lenient=True)

    trainer = make(table(SECOND, "second"), verify=verify)
    rollout_of(trainer)
    odd = sum(len(text) % 2 for text in trainer._logs["completion"])
    metrics = trainer._metrics["train"]
    assert 0 < odd < 8 and metrics["accuracy/failed"] == [odd / 8] and metrics["accuracy/strict"] == [1.0]
    failures = trainer.reward_log.failures["accuracy", "raised RecursionError"]
    assert (failures.calls, failures.completions) == (1, odd)
    assert metrics["rewards/second/failed"] == [0.0]


# --- ranks --------------------------------------------------------------------------------------------------------


def test_ranks_agree_on_what_failed_and_what_it_counts_as(make, tmp_path):
    """One group across both ranks: what one knows fills in what failed on the other."""
    place = {}

    def by_place(completions, completion_ids, row=(), **kwargs):
        return [[1.0, 0.0, 0.5, 0.3, FAILS, FAILS, FAILS, FAILS][i] for i in row]

    def run():
        trainer = make(by_place, lambda completions, **kwargs: [1.0] * len(completions), num_generations=8,
                       per_device_train_batch_size=8 // place["processes"], verify=seven)  # fmt: skip
        rank, size = trainer.accelerator.process_index, 8 // place["processes"]
        trainer.model.train()
        rows = [example | {"row": i} for i, example in enumerate(rows_of(trainer, 8))][rank * size :][:size]
        texts = ["7" if i < 3 else "8" for i in range(8)][rank * size :][:size]
        rewards = trainer._calculate_rewards(rows, [row["prompt"] for row in rows], texts, [[1]] * size)
        metrics = dict(trainer._metrics["train"])
        return {"rewards": rewards, "metrics": metrics, "failures": len(trainer.reward_log.failures)}

    place["processes"] = 1
    (one,) = launch(run, 1, tmp_path)
    place["processes"] = 2
    two = launch(run, 2, tmp_path)
    assert torch.allclose(one["rewards"][:, 0], torch.tensor([1.0, 0.0, 0.5, 0.3, *[0.45] * 4]))
    for rank in two:
        assert torch.equal(rank["rewards"], one["rewards"]) and rank["metrics"] == one["metrics"]
    assert one["metrics"]["rewards/by_place/failed"] == [0.5] and one["metrics"]["accuracy/strict"] == [0.375]
    assert [rank["failures"] for rank in two] == [1, 0]


# --- weights ------------------------------------------------------------------------------------------------------


def test_a_reward_of_weight_zero_is_only_logged(make):
    options = {"scale_rewards": "none", "reward_weights": [1.0, 0.0]}
    trainer = make(table(SECOND, "second"), table(FIRST, "first"), **options)
    found = rollout_of(trainer)["advantages"]
    values = torch.tensor(SECOND)
    assert torch.allclose(found, values - grouped_mean(values), atol=1e-6)
    assert trainer._metrics["train"]["rewards/first/mean"] == [0.5]
    trainer.reward_log.begin(resumed=False)
    assert json.loads(trainer.reward_log.path.read_text())["weights"] == {"second": 1.0, "first": 0.0}


@pytest.mark.parametrize(
    "weights, allowed",
    [([1.0], "1 weights for the 2 of task.rewards"), ([0.0, 0.0], "one that is not 0"), ([1.0, NAN], "finite")],
)
def test_unusable_weights_are_refused_by_name(make, weights, allowed):
    with pytest.raises(ConfigError, match=allowed) as refused:
        make(table(SECOND, "first"), table(SECOND, "second"), reward_weights=weights)
    assert "training.reward_weights=" in str(refused.value)
