"""scripts/plot_schedules.py draws a picture, prints the check values, and says what is wrong in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import SCRIPTS
from PIL import Image

from core.alpha_schedule import SCHEDULES

SCRIPT = SCRIPTS / "plot_schedules.py"


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_prints_the_check_values_of_every_schedule_and_draws_them(tmp_path):
    done = run(folder=tmp_path)
    assert done.returncode == 0, done.stderr
    header, _, *rows = done.stdout.splitlines()
    assert header.split() == list(SCHEDULES)
    values = {int(t): numbers for t, *numbers in (row.split() for row in rows[:6])}
    cosine = {0: "0.9900", 16: "0.9527", 32: "0.8465", 64: "0.5000", 96: "0.1535", 128: "0.0100"}
    assert {t: numbers[0] for t, numbers in values.items()} == cosine
    assert all(len(numbers) == 3 * len(SCHEDULES) for numbers in values.values())
    with Image.open(tmp_path / "schedules.png") as image:
        assert image.size == (1200, 900)
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 20


def test_open_ends_and_a_short_grid_are_drawn_too(tmp_path):
    done = run("--steps", "1", "--alpha_min", "0", "--alpha_max", "1", "--output", "short.png", folder=tmp_path)
    assert done.returncode == 0 and not done.stderr
    assert (tmp_path / "short.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--steps", "0"), "max_timesteps=0"),
        (("--steps", "many"), "--steps"),
        (("--alpha_min", "0.9", "--alpha_max", "0.1"), "alpha_min=0.9"),
        (("--colour", "red"), "--colour"),
        (("--output", "missing/x.png"), "missing/x.png"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_2(tmp_path, arguments, named):
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and named in done.stderr
    assert not list(tmp_path.iterdir())
