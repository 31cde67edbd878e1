"""Bad input ends in one line that names the key or the reward, its value and what is allowed; no work is lost."""

import json
import os
import runpy
import shutil
import subprocess
import sys

import pytest
import yaml
from paths import SCRIPTS

from trainers.commands import main_or_one_line
from trainers.tasks import gsm8k


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
    """A reward that counts its calls."""

    __name__ = "probe"

    def __init__(self):
        self.calls = 0

    def __call__(self, completions, **kwargs):
        self.calls += 1
        return [float(sum(map(ord, text)) % 7) for text in completions]


@pytest.fixture
def reward(monkeypatch):
    """A probe among the rewards of the task."""

    probe = Probe()
    monkeypatch.setitem(gsm8k.REWARDS, "probe", probe)
    return probe


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
    return ["--task.name", "gsm8k", "--task.data_files", path]


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
    "unknown reward": (["--task.rewards", "kindness"], ["task.reward='kindness'", "correctness", "format"]),
    "repeated reward": (["--task.rewards", "probe", "probe"], ["task.rewards=['probe', 'probe']", "each reward once"]),
    "weights of other rewards": (
        ["--reward_weights", "1", "2"],
        ["training.reward_weights=[1.0, 2.0]", "2 weights for the 1 of task.rewards"],
    ),
    "no time for rewards": (["--task.reward_time_limit", "0"], ["task.reward_time_limit=0.0", "seconds above 0"]),
    "unknown task": (["--task.name", "chess"], ["task.name='chess'", "gsm8k"]),
    "missing data": (
        ["--task.name", "gsm8k", "--task.data_files", "/nowhere.jsonl"],
        ["task.data_files", "/nowhere.jsonl"],
    ),
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
    message = refused("train.py", config, *(given(model_dir, tmp_path) if callable(given) else given))
    for fragment in fragments:
        assert fragment in message, message
    assert reward.calls == 0 and not list(tmp_path.glob("out/checkpoint-*"))


def test_evaluation_refuses_an_unknown_split_in_one_line(refused, config, reward):
    message = refused("evaluate.py", config, "--split", "exam")
    assert "split" in message and "exam" in message and "validation" in message


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


def test_failing_reward_of_a_running_script_is_one_line_on_stderr_and_a_line_of_the_report(config, tmp_path):
    patch = (
        "from trainers.tasks import gsm8k\n"
        "calls = []\n"
        "def probe(completions, **kwargs):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 1: raise OSError('verifier\\nis down')\n"
        "    return [float(len(c)) for c in completions]\n"
        "gsm8k.REWARDS['probe'] = probe\n"
    )
    result = command(SCRIPTS / "train.py", config, patch=patch)
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "warning" in line]
    assert "reward 'probe' raised OSError: verifier is down; 8 of 8 completions have no value by it" in line
    assert "| probe | raised OSError | 2 | 16 |" in (tmp_path / "out" / "report.md").read_text()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    shares = [row["rewards/probe/failed"] for row in results["log_history"] if "rewards/probe/failed" in row]
    assert shares == [pytest.approx(2 / 3)] and results["rewards"]["weights"] == {"probe": 1.0}
