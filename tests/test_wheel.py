"""A wheel has all that a run needs: it is built, installed beside nothing of the checkout, and used from elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from paths import CONFIGS, REPO

SMALL = ["--max_steps", 2, "--task.test_size", 8, "--task.validation_size", 8, "--per_device_train_batch_size", 16]


def run(*words, cwd, **environment):
    command = list(map(str, words))
    found = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def tracked(*folders):
    """Files of the repository, those that are new among them."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *folders, cwd=REPO).splitlines()
    return [name for name in listed if (REPO / name).is_file()]


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    """Calls the installed console command: (words, cwd) -> what it prints."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels = tmp_path_factory.mktemp("wheels")
    run(*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels, cwd=source)
    (wheel,) = wheels.glob("trajectory_nelbo-*.whl")
    run(*pip, "install", "--no-deps", "--no-index", "--target", place, wheel, cwd=wheels)
    shutil.rmtree(source)

    def call(*words, cwd):
        return run(place / "bin" / "trajectory-nelbo", *words, cwd=cwd, PYTHONPATH=str(place), OMP_NUM_THREADS="1")

    call.place = place
    return call


def test_every_file_of_configs_and_scripts_is_in_it(console):
    for folder in ("configs", "scripts"):
        assert [name for name in tracked(folder) if not (console.place / name).is_file()] == []


def test_a_config_is_found_by_name_and_a_run_is_trained(console, tmp_path):
    shown = console("train", "trajectory_nelbo_gsm8k", *SMALL, cwd=tmp_path)
    assert "points gained" in shown
    out = tmp_path / "runs" / "trajectory_nelbo_gsm8k"
    assert {"model", "report.md", "config.yaml"} <= {path.name for path in out.iterdir()}
    report = (out / "report.md").read_text()
    assert "trajectory-nelbo train trajectory_nelbo_gsm8k --max_steps 2" in report
    assert yaml.safe_load((out / "config.yaml").read_text())["training"]["max_steps"] == 2


def test_paths_of_configs_are_those_of_the_wheel(console, tmp_path):
    path = Path(console("configs", "accelerate/fsdp2", cwd=tmp_path).strip())
    assert path.is_relative_to(console.place)
    assert path.read_text() == (CONFIGS / "accelerate" / "fsdp2.yaml").read_text()


def test_torchrun_starts_the_console_command(console, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    command = [console.place / "bin" / "trajectory-nelbo", "train", "trajectory_nelbo_gsm8k", *SMALL]
    environment = {"PYTHONPATH": str(console.place), "OMP_NUM_THREADS": "1"}
    assert "points gained" in run(*launcher, *command, "--use_cpu", "true", cwd=tmp_path, **environment)
