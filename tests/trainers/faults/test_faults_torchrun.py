"""Two ranks under a real torchrun: one that dies, fails or hangs ends the other within a minute, and says why."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import REPO

from trainers.saving.checkpoints import check_checkpoint

MINUTE = 60.0
WORKER = """
import datetime, os, time
import torch
from trainers.commands import main_or_one_line
from trainers.settings.options import ConfigError

def main(argv):
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=float(argv[1])))
    torch.distributed.barrier()
    if rank == 1:
        print("begins", flush=True)
        if argv[0] == "raises":
            raise ValueError("boom on one rank")
        if argv[0] == "refuses":
            raise ConfigError("task.seed=-1: expected a natural number")
        time.sleep(600)
    torch.distributed.all_reduce(torch.ones(1))

main_or_one_line(main)
"""
TINY = {
    "model.from_scratch": True,
    "generation.steps": 7,
    "generation.max_completion_length": 20,
    "task.train_size": 64,
    "task.validation_size": 16,
    "task.test_size": 16,
    "max_steps": 100000,
    "save_steps": 5,
    "save_total_limit": 2,
    "per_device_train_batch_size": 4,
    "logging_steps": 5,
    "eval_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}


def torchrun(*arguments, cwd):
    """A launcher of two ranks, its output in a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    log = open(cwd / "output.txt", "w")  # noqa: SIM115  # the launcher's, to its end
    return subprocess.Popen(
        [*command, *map(str, arguments)], cwd=cwd, env=environment, stdout=log, stderr=subprocess.STDOUT
    )


@pytest.fixture
def launched(tmp_path):
    """Launchers are ended with the test that started them."""
    started = []

    def launch(*arguments):
        started.append(torchrun(*arguments, cwd=tmp_path))
        return started[-1]

    yield launch
    for launcher in started:
        if launcher.poll() is None:
            launcher.terminate()
            launcher.wait(MINUTE)


def children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def wait_until(condition, seconds, output):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("fault", "timeout", "said"),
    [
        ("raises", 600, ["ValueError: boom on one rank", "Root Cause"]),
        ("refuses", 600, ["error (rank 1): task.seed=-1: expected a natural number"]),
        ("hangs", 3, ["Timed out"]),
    ],
)
def test_failing_rank_ends_the_other_within_a_minute_and_is_named(tmp_path, launched, fault, timeout, said):
    (tmp_path / "worker.py").write_text(WORKER)
    launcher, output = launched("worker.py", fault, timeout), tmp_path / "output.txt"
    wait_until(lambda: "begins" in output.read_text(), 3 * MINUTE, output)
    assert launcher.wait(MINUTE) != 0
    text = output.read_text()
    for part in said:
        assert part.lower() in text.lower(), text
    if fault == "refuses":
        assert "Traceback" not in text.split("error (rank 1)")[0]


def test_run_is_stopped_by_the_launcher_and_goes_on_and_a_killed_rank_ends_it(tmp_path, launched):
    settings = [part for key, value in TINY.items() for part in (f"--{key}", str(value))]
    command = [REPO / "scripts/train.py", REPO / "configs/sft_gsm8k.yaml", *settings, "--output_dir", tmp_path / "run"]
    command += ["--resume_from_checkpoint", "auto"]
    output, found = (
        tmp_path / "output.txt",
        lambda: sorted(int(path.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*")),
    )

    launcher = launched(*command)
    wait_until(found, 3 * MINUTE, output)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(MINUTE) != 0
    last = found()[-1]
    assert f"SIGTERM: saved step {last}" in output.read_text(), output.read_text()
    check_checkpoint(tmp_path / "run" / f"checkpoint-{last}")

    launcher = launched(*command)
    wait_until(lambda: found() and found()[-1] > last + 5, 3 * MINUTE, output)
    os.kill(children(launcher.pid)[-1], signal.SIGKILL)
    assert launcher.wait(MINUTE) != 0
    assert "SIGKILL" in output.read_text()
    assert f"{found()[0]}" and not (tmp_path / "run" / "model").exists()
