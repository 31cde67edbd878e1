"""Bad input ends in one line that names the key or the reward, its value and what is allowed; no work is lost."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from trainers.console import main_or_one_line
from trainers.rewards import RewardError, checked
from trainers.tasks import gsm8k

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def config(model_dir, tmp_path):
    """The path of a GRPO config on the micro model; a run writes to tmp_path/out."""
    document = {
        "generation": {"steps": 7, "max_completion_length": 14},
        "model": {"name_or_path": str(model_dir)},
        "task": {"train_size": 64, "validation_size": 8, "test_size": 8, "rewards": ["probe"]},
        "training": {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "report_to": "none",
            "disable_tqdm": True,
            "save_steps": 100,
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


class Probe:
    """A reward that behaves until its ``when``-th call and then does ``what``."""

    __name__ = "probe"

    def __init__(self, what=None, when=1):
        self.what, self.when, self.calls = what, when, 0

    def __call__(self, completions, **kwargs):
        self.calls += 1
        if self.what is not None and self.calls == self.when:
            return self.what(completions)
        return [float(sum(map(ord, text)) % 7) for text in completions]


def explode(completions):
    raise ZeroDivisionError("no digits\nin this text")


@pytest.fixture
def reward(monkeypatch):
    """Put a probe among the rewards of the task."""

    def install(what=None, when=1):
        probe = Probe(what, when)
        monkeypatch.setitem(gsm8k.REWARDS, "probe", probe)
        return probe

    install()
    return install


def main_of(script):
    return runpy.run_path(str(SCRIPTS / script))["main"]


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a script in this process; returns the one line after "error: "."""

    def run(script, *argv):
        monkeypatch.setattr(sys, "argv", [script, *map(str, argv)])
        with pytest.raises(SystemExit) as stopped:
            main_or_one_line(main_of(script))
        assert stopped.value.code == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")

    return run


# --- one table ----------------------------------------------------------------------------------------------------


def truncated_checkpoint(model_dir, tmp_path):
    path = tmp_path / "checkpoint-5"
    shutil.copytree(model_dir, path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return ["--resume_from_checkpoint", path]


def truncated_model(model_dir, tmp_path):
    *_, path = truncated_checkpoint(model_dir, tmp_path)
    return ["--model.name_or_path", path]


def malformed_data(model_dir, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": "2\\n#### 2"}\n{"question": "1 + 2?"}\n')
    return ["--task.data_files", path]


# what is given, and what the line must say: the key, the value, what is allowed
BAD = {
    "wrong key": (["--loss.alpha_shedule", "linear"], ["loss.alpha_shedule", "loss.alpha_schedule"]),
    "wrong section": (["--los.alpha_min", "0.1"], ["los.alpha_min", "loss.alpha_min"]),
    "unknown name": (["--loss.alpha_schedule", "sine"], ["loss.alpha_schedule='sine'", "cosine", "linear"]),
    "impossible number": (["--loss.alpha_min", "1.5"], ["loss.alpha_min=1.5", "0 <= alpha_min < alpha_max <= 1"]),
    "not a number": (["--generation.steps", "many"], ["generation.steps", "a whole number", "'many'"]),
    "impossible blocks": (["--generation.block_length", "5"], ["generation.block_length=5", "divisor", "14"]),
    "impossible chance": (
        ["--scheduled_sampling_probability", "1.5"],
        ["scheduled_sampling.probability=1.5", "a probability in [0, 1]"],
    ),
    "impossible offset": (
        ["--scheduled_sampling.max_step_offset", "8"],
        ["scheduled_sampling.max_step_offset=8", "at most generation.steps=7"],
    ),
    "ramp without steps": (
        ["--scheduled_sampling.ramp_shape", "cosine"],
        ["scheduled_sampling.ramp_shape='cosine'", "only with scheduled_sampling.ramp_steps > 0"],
    ),
    "rolled-out replay": (
        ["--scheduled_sampling_max_step_offset", "3", "--scheduled_sampling_probability", "0.5"],
        ["loss.source='rollout'", "'forward' for scheduled sampling", "no exposure bias to remove"],
    ),
    "solver without a sampler": (
        ["--generation.solver", "rk4"],
        ["generation.solver='rk4'", "only with generation.sampler=ancestral"],
    ),
    "flow without a likelihood": (
        ["--prediction_type", "flow_matching"],
        ["loss.prediction_type='flow_matching'", "'masked' for GRPO", "no token likelihood"],
    ),
    "impossible batch": (["--num_generations", "3"], ["training", "3"]),
    "unknown reward": (["--task.rewards", "kindness"], ["task.rewards='kindness'", "correctness", "format"]),
    "unknown task": (["--task.name", "chess"], ["task.name='chess'", "gsm8k"]),
    "missing data": (["--task.data_files", "/nowhere.jsonl"], ["task.data_files", "/nowhere.jsonl"]),
    "malformed data": (malformed_data, ["train.jsonl, line 2", '"answer"']),
    "missing model": (
        ["--model.name_or_path", "/nowhere"],
        ["model.name_or_path='/nowhere'", "'tiny'", "a directory"],
    ),
    "truncated model": (truncated_model, ["model.name_or_path", "checkpoint-5", "safetensors"]),
    "missing checkpoint": (["--resume_from_checkpoint", "/nowhere"], ["resume_from_checkpoint", "/nowhere", "'true'"]),
    "no checkpoint": (["--resume_from_checkpoint", "true"], ["resume_from_checkpoint=true", "training.output_dir"]),
    "truncated checkpoint": (truncated_checkpoint, ["checkpoint-5", "model.safetensors is damaged", "another"]),
    "too few problems": (["--task.train_size", "1"], ["task.train_size", "1"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_training_in_one_line(refused, config, reward, model_dir, tmp_path, name):
    given, fragments = BAD[name]
    probe = reward()
    message = refused("train.py", config, *(given(model_dir, tmp_path) if callable(given) else given))
    for fragment in fragments:
        assert fragment in message, message
    assert probe.calls == 0 and not list(tmp_path.glob("out/checkpoint-*"))


BAD_REWARDS = {
    "raises": (explode, ["raised ZeroDivisionError: no digits"]),
    "nan": (lambda texts: [float("nan")] * len(texts), ["returned nan", "a finite number, or None"]),
    "infinite": (lambda texts: [float("inf")] * len(texts), ["returned inf", "a finite number, or None"]),
    "text": (lambda texts: ["good"] * len(texts), ["returned 'good'", "a finite number, or None"]),
    "too few": (lambda texts: [1.0] * (len(texts) - 1), ["returned 7 values for 8 completions"]),
    "nothing": (lambda texts: None, ["returned None", "8"]),
}


@pytest.mark.parametrize("name", BAD_REWARDS)
def test_failing_reward_is_one_line_and_the_finished_step_is_saved(refused, config, reward, tmp_path, name):
    what, fragments = BAD_REWARDS[name]
    reward(what, when=2)
    message = refused("train.py", config)
    for fragment in (
        "reward 'probe'",
        "saved step 1",
        str(tmp_path / "out"),
        "--resume_from_checkpoint true",
        *fragments,
    ):
        assert fragment in message, message
    state = json.loads((tmp_path / "out" / "checkpoint-1" / "trainer_state.json").read_text())
    assert state["global_step"] == 1


def test_run_goes_on_after_its_reward_was_mended_as_if_nothing_had_happened(refused, config, reward, tmp_path):
    reward(explode, when=2)
    refused("train.py", config)
    reward()
    train = main_of("train.py")
    train.__globals__["write_report"] = lambda *args, **kwargs: None  # its pictures take seconds
    train([str(config), "--resume_from_checkpoint", "true", "--save_steps", "3"])
    train([str(config), "--output_dir", str(tmp_path / "unbroken"), "--save_steps", "3"])
    mended, unbroken = (
        torch.load(tmp_path / out / "checkpoint-3" / "optimizer.pt", weights_only=True)["state"]
        for out in ("out", "unbroken")
    )
    assert mended.keys() == unbroken.keys() and mended
    for key, moments in mended.items():
        assert torch.equal(moments["exp_avg"], unbroken[key]["exp_avg"])


def test_reward_that_fails_at_once_promises_no_checkpoint(refused, config, reward, tmp_path):
    reward(explode, when=1)
    message = refused("train.py", config)
    assert "reward 'probe' raised ZeroDivisionError" in message
    assert "saved" not in message and "resume" not in message
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_evaluation_refuses_an_unknown_split_in_one_line(refused, config, reward):
    message = refused("evaluate.py", config, "--split", "exam")
    assert "split" in message and "exam" in message and "validation" in message


# --- the reward check itself --------------------------------------------------------------------------------------


def test_good_rewards_pass_unchanged_and_keep_their_name():
    values = [1, 0.5, None, torch.tensor(2.0)]
    reward = checked(lambda completions, answer: values)
    assert reward(completions=["a"] * 4, answer=["1"] * 4) is values
    assert checked(gsm8k.format_reward).__name__ == "format_reward"


@pytest.mark.parametrize("name", BAD_REWARDS)
def test_bad_rewards_are_named(name):
    what, fragments = BAD_REWARDS[name]
    with pytest.raises(RewardError) as error:
        checked(Probe(what))(completions=["a"] * 8)
    assert all(fragment in str(error.value) for fragment in ("'probe'", *fragments))


# --- as a command -------------------------------------------------------------------------------------------------


def command(*arguments, patch=""):
    code = f"import sys, runpy\n{patch}\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


def assert_one_error_line(result, *fragments):
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(fragment in line for fragment in fragments), line


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "generate.py"])
def test_scripts_end_with_status_2_and_one_line_on_stderr(config, script):
    arguments = [config, "--task.rewards", "format", "--loss.alpha_schedule", "sine"]
    assert_one_error_line(command(SCRIPTS / script, *arguments), "loss.alpha_schedule='sine'", "cosine")


def test_failing_reward_of_a_running_script_is_one_line_on_stderr(config):
    patch = (
        "from trainers.tasks import gsm8k\n"
        "calls = []\n"
        "def probe(completions, **kwargs):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2: raise OSError('verifier\\nis down')\n"
        "    return [float(len(c)) for c in completions]\n"
        "gsm8k.REWARDS['probe'] = probe\n"
    )
    result = command(SCRIPTS / "train.py", config, patch=patch)
    *bar, line = result.stderr.splitlines()
    assert all("step " in shown or "it/s" in shown or "s/it" in shown for shown in bar), bar
    result.stderr = line
    assert_one_error_line(result, "reward 'probe' raised OSError: verifier is down", "saved step 1")
