"""A run that was started with other processes than it was meant to have says so, in one line."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from paths import REPO

from trainers.settings.launching import check_launch, processes_of
from trainers.settings.options import ConfigError

ALONE = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
FILES = sorted((REPO / "configs/accelerate").glob("*.yaml"))


def test_one_process_of_accelerate_launch_on_cpu_is_told_how_to_be_two(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/train.py", "configs/some file.yaml"])
    with pytest.raises(ConfigError, match=r"--nproc_per_node 2 scripts/train.py 'configs/some file.yaml' --use_cpu"):
        check_launch(ALONE)


@pytest.mark.parametrize(
    "environment",
    [{}, {"ACCELERATE_USE_CPU": "True"}, {"MASTER_ADDR": "a"}]
    + [ALONE | {name: "2"} for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")],
    ids=str,
)
def test_runs_that_are_what_they_were_meant_to_be_start(environment):
    check_launch(environment)


def test_accelerate_leaves_these_signs():
    """What accelerate itself hands to the one process that it starts."""
    program = "import os; from trainers.settings.launching import check_launch; check_launch()"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes"]
    clean = {k: v for k, v in os.environ.items() if k not in ("MASTER_ADDR", "WORLD_SIZE")} | {"PYTHONPATH": str(REPO)}

    call = [*command, "2", "--no_python", sys.executable, "-c", program]
    run = subprocess.run(call, env=clean, capture_output=True, text=True, timeout=300)
    assert run.returncode != 0 and "started one" in run.stderr


def test_processes_are_those_of_the_launcher():
    assert processes_of({}) == 1
    assert processes_of({"WORLD_SIZE": "8"}) == processes_of({"OMPI_COMM_WORLD_SIZE": "8"}) == 8


def test_a_rollout_of_incomplete_groups_says_what_it_is_made_of(grpo_args, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError) as caught:
        grpo_args(per_device_train_batch_size=3, gradient_accumulation_steps=1, num_generations=4)
    said = str(caught.value)
    assert "training.per_device_train_batch_size=3: 2 processes x 3 rows" in said and "num_generations=4" in said


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path):
    """Every key is known, and the kind of sharding is that of the file's name."""
    found = load_config_from_file(str(path))
    kind = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
    assert found.distributed_type == kind[path.stem]
    assert found.num_processes == 8
    if "zero" in path.stem:
        told = json.loads((REPO / found.deepspeed_config["deepspeed_config_file"]).read_text())
        assert told["zero_optimization"]["stage"] == int(path.stem[-1])
    if path.stem == "fsdp2":
        assert found.fsdp_config["fsdp_version"] == 2
    assert "mixed_precision" not in yaml.safe_load(path.read_text()), "precision is training.bf16's to say"


def test_there_is_a_file_for_every_kind():
    assert {path.stem for path in FILES} == {"ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"}


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("True", True), ("false", None), (True, True)])
def test_fsdp_is_a_switch_also_in_text(grpo_args, text, meant):
    """transformers takes `--fsdp true` for the name of a sharding."""
    assert grpo_args(fsdp=text).fsdp == meant
