"""docs/metrics.md names what short runs of every trainer log, and nothing that none logs."""

import json
import re

import pytest
from paths import REPO
from running import fork

SMALL = (
    *("--max_steps", "3", "--logging_steps", "1", "--save_strategy", "no"),
    *("--task.train_size", "64", "--task.validation_size", "4", "--task.test_size", "4"),
    *("--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "8"),
)
GROUPS = ("--num_generations", "4")
EVALUATED = ("--eval_strategy", "steps", "--eval_steps", "2")
CACHED = ("--generation.cache", "dual", "--generation.block_length", "2", "--loss.replay", "drawn")
RUNS = {
    "grpo": ("trajectory_nelbo_gsm8k", *GROUPS, *EVALUATED, "--include_num_input_tokens_seen", "true"),
    "cached": ("trajectory_nelbo_gsm8k", *GROUPS, *CACHED),
    "iterated": ("trajectory_nelbo_gsm8k", *GROUPS, "--num_iterations", "2", "--loss.replay", "all"),
    "cispo": ("trajectory_nelbo_gsm8k", *GROUPS, "--loss_type", "cispo"),
    "vespo": ("trajectory_nelbo_gsm8k", *GROUPS, "--loss_type", "vespo"),
    "walking grpo": ("grpo_scheduled_sampling_gsm8k", *GROUPS),
    "sft": ("sft_gsm8k", "--model.from_scratch", "false", *EVALUATED),
    "walking sft": ("sft_scheduled_sampling_gsm8k",),
    "flow": ("sft_flow_matching_gsm8k",),
    "dpo": ("vrpo_gsm8k", "--preferences.problems", "32", *EVALUATED),
}
OF_TASKS = {"math/unjudged"}  # logged by a reward of one task
REWARD = re.compile(r"rewards/\w+/")


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> set[str]:
    """Every name in the logs of the runs: a reward function's own name as NAME, without the prefix of evaluations."""
    names: set[str] = set()
    for config, *options in RUNS.values():
        work = tmp_path_factory.mktemp("run")
        path = REPO / "configs" / f"{config}.yaml"
        fork("train.py", path, *SMALL, *options, "--training.output_dir", "out", cwd=work)
        for row in json.loads((work / "out" / "results.json").read_text())["log_history"]:
            names |= set(row)
    timed = re.compile(r"eval_(runtime|samples_per_second|steps_per_second)")
    names = {name if timed.fullmatch(name) else name.removeprefix("eval_") for name in names}
    return {REWARD.sub("rewards/NAME/", name) for name in names}


def documented() -> set[str]:
    """The names in the first column of the page's tables."""
    page = (REPO / "docs" / "metrics.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_logged_name_is_documented(logged):
    assert logged - documented() == set()


def test_every_documented_name_is_logged(logged):
    assert documented() - logged - OF_TASKS == set()


def test_the_page_names_what_the_trainer_watches():
    from trainers.grpo.health import HEALTHY

    assert set(HEALTHY) <= documented()
