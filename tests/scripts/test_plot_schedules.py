"""scripts/plot_schedules.py draws a picture, prints the check values, and says what is wrong in one line."""

import runpy
import sys
import warnings

import pytest
from paths import SCRIPTS
from PIL import Image

from core.alpha_schedule import SCHEDULES

SCRIPT = SCRIPTS / "plot_schedules.py"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the script in this process, in a folder of its own; returns exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        status: object = 0
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            try:
                runpy.run_path(str(SCRIPT), run_name="__main__")
            except SystemExit as ended:
                status = ended.code
        return status, *capsys.readouterr()

    return run


def test_prints_the_check_values_of_every_schedule_and_draws_them(run, tmp_path):
    status, shown, said = run()
    assert status == 0, said
    header, _, *rows = shown.splitlines()
    assert header.split() == list(SCHEDULES)
    values = {int(t): numbers for t, *numbers in (row.split() for row in rows[:6])}
    cosine = {0: "0.9900", 16: "0.9527", 32: "0.8465", 64: "0.5000", 96: "0.1535", 128: "0.0100"}
    assert {t: numbers[0] for t, numbers in values.items()} == cosine
    assert all(len(numbers) == 3 * len(SCHEDULES) for numbers in values.values())
    with Image.open(tmp_path / "schedules.png") as image:
        assert image.size == (1200, 900)
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 20


def test_open_ends_and_a_short_grid_are_drawn_too(run, tmp_path):
    status, _, said = run("--steps", "1", "--alpha_min", "0", "--alpha_max", "1", "--output", "short.png")
    assert status == 0 and not said
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
def test_a_bad_argument_is_one_line_and_exit_2(run, tmp_path, arguments, named):
    status, _, said = run(*arguments)
    assert status == 2
    assert said.count("\n") == 1 and named in said
    assert not list(tmp_path.iterdir())
