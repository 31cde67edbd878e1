"""rollouts.jsonl holds what the sampler did, of a bounded number of rollouts, and a run is the same without it."""

from dataclasses import asdict

import pytest
import torch
from processes import launch
from resumes import SAVING, die_in_a_child
from watching import Watching, equal, state

from trainers.evaluating.playback import playbacks
from trainers.grpo.recording import recorded
from trainers.reporting.rollout_log import GROUPS, ROLLOUTS_FILE, SHOWN, RolloutLog, read_rollouts
from trainers.saving.checkpoints import checkpoint_to_resume
from trainers.settings.options import ConfigError


@pytest.mark.parametrize(
    ("count", "rollouts", "expected"),
    [(3, 9, {0, 4, 8}), (1, 9, {0}), (0, 9, set()), (20, 3, {0, 1, 2}), (5, 1, {0}), (2, 100, {0, 99})],
)
def test_recorded_rollouts_are_evenly_spread(count, rollouts, expected):
    assert recorded(count, rollouts) == expected


def test_it_holds_completions_rewards_and_advantages_of_the_first_groups(make_grpo, tmp_path):
    trainer = make_grpo(cls=Watching, max_steps=4, num_iterations=2, recorded_rollouts=2)
    trainer.train()
    groups = read_rollouts(trainer.args.output_dir)
    assert [(g["rollout"], g["step"], g["group"]) for g in groups] == [(0, 0, 0), (0, 0, 1), (1, 2, 0), (1, 2, 1)]
    for group in groups:
        rows = range(4 * group["group"], 4 * group["group"] + 4)
        trajectory = trainer.trajectories[group["rollout"]]
        written = playbacks(trainer.policy.tokenizer, trajectory, rows)
        assert group["completions"] == [asdict(one) for one in written]
        digits = [sum(c.isdigit() for c in one.text) / max(len(one.text), 1) for one in written]
        assert group["rewards"] == {"digit_reward": pytest.approx(digits, abs=1e-5)}
        assert sum(group["advantages"]) == pytest.approx(0, abs=1e-4) and any(group["advantages"])
        assert group["prompt"] in trainer.train_dataset["prompt"] and group["size"] == 4


def test_a_large_group_is_cut(make_grpo):
    trainer = make_grpo(per_device_train_batch_size=60, num_generations=20, max_steps=1)
    trainer.train()
    groups = read_rollouts(trainer.args.output_dir)
    assert len(groups) == GROUPS and {group["size"] for group in groups} == {20}
    for group in groups:
        lengths = {len(group["completions"]), len(group["advantages"]), *map(len, group["rewards"].values())}
        assert lengths == {SHOWN}
    assert groups[0]["prompt"] != groups[1]["prompt"]


def test_a_run_is_the_same_without_and_leaves_no_file(make_grpo, tmp_path):
    weights = []
    for count in (0, 20):
        trainer = make_grpo(output_dir=str(tmp_path / str(count)), recorded_rollouts=count, max_steps=3)
        trainer.train()
        weights.append(state(trainer.model))
    assert equal(*weights)
    assert not (tmp_path / "0" / ROLLOUTS_FILE).exists() and (tmp_path / "20" / ROLLOUTS_FILE).exists()


def test_a_new_run_forgets_an_older_ones_and_evaluations_are_not_recorded(make_grpo):
    for steps in (3, 1):
        trainer = make_grpo(max_steps=steps, eval_strategy="steps", eval_steps=1)
        trainer.train()
        groups = read_rollouts(trainer.args.output_dir)
        assert sorted({group["step"] for group in groups}) == list(range(steps)) and len(groups) == 2 * steps


def test_a_reward_without_a_value_is_null(make_grpo):
    def sometimes(completions, **kwargs):
        return [None if i == 0 else 1.0 for i in range(len(completions))]

    trainer = make_grpo(reward=sometimes, max_steps=1)
    trainer.train()
    assert read_rollouts(trainer.args.output_dir)[0]["rewards"]["sometimes"] == [None, 1.0, 1.0, 1.0]


def test_a_killed_and_resumed_run_has_the_record_of_an_unbroken_one(make_grpo, tmp_path):
    def make(name):
        return make_grpo(output_dir=str(tmp_path / name), max_steps=5, num_iterations=2, **SAVING)

    make("unbroken").train()
    die_in_a_child(lambda: make("killed"), 3, "begin")
    torch.manual_seed(12345)
    make("killed").train(resume_from_checkpoint=str(checkpoint_to_resume("true", str(tmp_path / "killed"))))
    unbroken, killed = ((tmp_path / name / ROLLOUTS_FILE).read_text() for name in ("unbroken", "killed"))
    assert unbroken == killed and len(unbroken.splitlines()) == 6


def test_what_a_resumed_run_does_again_is_written_once_and_half_a_line_is_no_line(tmp_path):
    log = RolloutLog(tmp_path)
    log.add([{"step": step} for step in range(4)])
    with open(log.path, "a") as file:
        file.write('{"step": 4, "gro')
    assert read_rollouts(tmp_path) == [{"step": step} for step in range(4)]
    log.begin(step=2)
    log.add([{"step": 2}])
    assert read_rollouts(tmp_path) == [{"step": 0}, {"step": 1}, {"step": 2}]
    log.begin(step=0)
    assert not log.path.exists() and read_rollouts(tmp_path) == []


@pytest.mark.parametrize("group", [4, 24])
def test_two_processes_write_the_record_of_one(make_grpo, tmp_path, group):
    """A group of 24 lies across both, and so do those of its completions that are kept. Log-probabilities are equal up
    to rounding."""

    def train(processes):
        def run():
            directory = str(tmp_path / str(processes))
            options = {"per_device_train_batch_size": 24 // processes, "num_generations": group, "max_steps": 1}
            make_grpo(output_dir=directory, **options).train()
            return [1]

        launch(run, processes, tmp_path)
        return read_rollouts(tmp_path / str(processes))

    one, two = train(1), train(2)
    assert len(one) == min(GROUPS, 24 // group)
    for expected, found in zip(one, two, strict=True):
        assert found["advantages"] == pytest.approx(expected.pop("advantages"), abs=1e-4)
        for own, other in zip(expected["completions"], found["completions"], strict=True):
            assert other.pop("logps") == pytest.approx(own.pop("logps"), abs=1e-3)
        del found["advantages"]
        assert found == expected


def test_a_negative_number_is_refused(grpo_args):
    with pytest.raises(ConfigError, match=r"training\.recorded_rollouts=-1: expected at least 0"):
        grpo_args(recorded_rollouts=-1)
