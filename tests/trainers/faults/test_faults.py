"""The fault table: a run that is killed, wherever, and resumed ends bit by bit as the run that was not."""

import os
import random
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from endings import assert_same, run
from peft import LoraConfig
from transformers import LlamaForCausalLM, TrainerState, modeling_utils

from trainers.faults import publishing, whole_saves
from trainers.faults.manifest import MANIFEST
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer

SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "lr_scheduler_type": "linear"}
# what a step is made of, and every call that touches the disk; those that write a file are given its path
MOMENTS = {
    "roll out": (ImprovedDiffuGRPOTrainer, "_generate_single_turn"),
    "score": (ImprovedDiffuGRPOTrainer, "_get_per_token_logps_and_entropies"),
    "forward": (LlamaForCausalLM, "forward"),
    "backward": (torch.Tensor, "backward"),
    "update": (torch.optim.AdamW, "step"),
    "write weights": (modeling_utils, "safe_save_file"),
    "write tensors": (torch, "save"),
    "write state": (TrainerState, "save_to_json"),
    "write manifest": (whole_saves, "write_manifest"),
    "sync": (publishing, "_sync_entry"),
    "rename": (os, "rename"),
    "rotate": (whole_saves, "rotate_checkpoints"),
    "delete": (shutil, "rmtree"),
}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def tear(arguments):
    """Leave half of what was just written, as a kill inside of a write does."""
    for path in arguments:
        if isinstance(path, (str, Path)) and Path(path).is_dir():
            path = Path(path) / MANIFEST
        if isinstance(path, (str, Path)) and Path(path).is_file():
            os.truncate(path, Path(path).stat().st_size // 2)


def watch(kill_at=None, torn=False):
    """Note the moments that this process comes to, and kill it at one of them: before the call, or in its middle."""
    met = []

    def hook(owner, name, kind):
        original = getattr(owner, name)

        def called(*args, **kwargs):
            met.append(kind)
            last = len(met) == kill_at
            if last and not (torn and kind.startswith("write")):
                die()
            result = original(*args, **kwargs)
            if last:
                tear((*args, *kwargs.values()))
                die()
            return result

        setattr(owner, name, called)

    for kind, (owner, name) in MOMENTS.items():
        hook(owner, name, kind)
    return met


def assert_tidy(output):
    """As many checkpoints as were asked for, and nothing of what the killed one left."""
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == ["checkpoint-3", "checkpoint-4"]


def check_kills(make, tmp_path, kinds, seed):
    """One kill and one resume for each of ``kinds``, at one of its moments that is drawn."""
    draw = random.Random(seed)
    status, unbroken = run(make, tmp_path / "unbroken", watch)
    assert status == 0 and len(unbroken["logs"]) == 4
    for i, kind in enumerate(kinds):
        moments = [n for n, met in enumerate(unbroken["moments"], 1) if met == kind]
        output = tmp_path / f"killed-{i}"
        kill = partial(watch, kill_at=draw.choice(moments), torn=draw.random() < 0.7)
        status, _ = run(make, output, kill)
        assert status == -signal.SIGKILL, kind
        status, resumed = run(make, output)
        assert status == 0, kind
        assert_same(resumed, unbroken)
        assert_tidy(output)


@pytest.fixture
def grpo(make_grpo):
    """Two updates on every rollout, each of two micro-batches."""
    options = {"num_iterations": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    return lambda path, **more: make_grpo(output_dir=str(path), **{"max_steps": 4, **options, **SAVING, **more})


def test_13_kills_of_a_grpo_run_leave_no_trace(grpo, tmp_path):
    check_kills(grpo, tmp_path, MOMENTS, seed=1)


def test_4_kills_of_a_lora_run_leave_no_trace(grpo, tmp_path):
    def make(path):
        torch.manual_seed(0)  # of the adapter's own fresh weights
        adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        return grpo(path, beta=0.1, peft_config=adapter)

    check_kills(make, tmp_path, ["score", "backward", "write tensors", "rename"], seed=2)


def test_3_kills_of_an_sft_run_leave_no_trace(make_sft, tmp_path):
    def make(path):
        return make_sft(output_dir=str(path), max_steps=4, gradient_accumulation_steps=2, **SAVING)

    check_kills(make, tmp_path, ["forward", "update", "write weights"], seed=3)


def test_a_run_killed_20_times_ends_as_if_it_never_was(grpo, tmp_path):
    def make(path):
        return grpo(path, max_steps=12, save_total_limit=1)

    draw = random.Random(4)
    status, unbroken = run(make, tmp_path / "unbroken", watch)
    a_step = len(unbroken["moments"]) // 12
    kills, seen = 0, set()
    while kills < 20:
        kill = partial(watch, kill_at=draw.randint(1, 2 * a_step), torn=draw.random() < 0.5)
        status, _ = run(make, tmp_path / "killed", kill)
        assert status == -signal.SIGKILL, f"ended after {kills} kills"
        kills += 1
        seen |= {path.name for path in (tmp_path / "killed").glob("checkpoint-*")}
    assert 4 <= len(seen) < 12  # it came forward between the kills, and had some way to go
    status, ended = run(make, tmp_path / "killed")
    assert_same(ended, unbroken)
