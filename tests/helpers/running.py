"""The scripts, run as a user runs them, on a model and on sizes that take seconds."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

import torch
from paths import REPO

from trainers.tasks import gsm8k

SMALL = {
    "generation": {"steps": 7, "max_completion_length": 20},
    "task": {"train_size": 64, "validation_size": 16, "test_size": 32},
    "training": {
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "logging_steps": 1,
        "save_steps": 1,
        "learning_rate": 0.001,
    },
}


def digits(completions, **kwargs):
    """Something that random weights earn now and then: those of the task they never do."""
    return [sum(c.isdigit() for c in text) / 20 for text in completions]


def start(script, *arguments, cwd):
    """The script in a process of its own, with nothing imported before."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    command = [sys.executable, str(REPO / "scripts" / script), *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def fork(script, *arguments, cwd):
    """The script in a fork of this process: the same, without the seconds that imports take."""
    log = Path(cwd) / "stdout.txt"

    def child():
        torch.set_num_threads(1)
        gsm8k.REWARDS["digits"] = digits
        os.chdir(cwd)
        os.environ["COLUMNS"] = "160"
        sys.argv = [str(REPO / "scripts" / script), *map(str, arguments)]
        with open(log, "w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        sys.stdout, sys.stderr = (open(number, "w") for number in (1, 2))  # noqa: SIM115  # pytest's are in the way
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.stdout.flush()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0, log.read_text()
    return log.read_text()
