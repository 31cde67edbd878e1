"""Every command answers `--help`, a wrong key and a missing file before torch, transformers and TRL are imported.

What that saves in seconds is measured by `scripts/benchmark.py startup`, and is no test.
"""

import subprocess
import sys

import pytest
from paths import CONFIGS, REPO, SCRIPTS

HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
COMMANDS = sorted(path.stem for path in SCRIPTS.glob("*.py"))
CONFIG = str(CONFIGS / "trajectory_nelbo_gsm8k.yaml")
WRONG_KEY = ["--los.alpha_min", "0.1"]

# what stands before the config, for commands that take one
BEFORE = {"train": [], "evaluate": [], "generate": [], "measure_sampling": [], "compare_processes": [], "export": []}
BEFORE |= {"harness": [], "plan": ["tiny", "1xcpu", "1h"]}
AFTER = {"export": ["--output", "nowhere"], "harness": ["--tasks", "arc_easy"]}

RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *sorted({name.partition(".")[0] for name in sys.modules} & set(%r)), file=sys.stderr)
"""


def answer(command, *words):
    """Exit status, standard output, lines of standard error, and the heavy packages that were imported."""
    argv = [sys.executable, "-c", RUN % (HEAVY,), str(SCRIPTS / f"{command}.py"), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env={"PYTHONPATH": str(REPO)})
    *lines, last = done.stderr.splitlines()
    assert last.startswith("imported:"), done.stderr
    return done.returncode, done.stdout, lines, last.split()[1:]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light(command):
    status, shown, said, imported = answer(command, "--help")
    assert status == 0 and not said
    assert imported == []
    assert command in shown


@pytest.mark.parametrize("command", BEFORE)
def test_help_shows_the_settings_of_the_config_too(command):
    _, shown, _, _ = answer(command, CONFIG, "--help")
    assert ("--loss.alpha_schedule VALUE" in shown) == (command not in ("plan", "export"))


@pytest.mark.parametrize("command", BEFORE)
@pytest.mark.parametrize(
    ("config", "words", "named"),
    [
        (CONFIG, WRONG_KEY, "unknown setting 'los.alpha_min': did you mean 'loss.alpha_min'?"),
        (CONFIG, ["--loss.alpha_schedule", "sine"], "loss.alpha_schedule='sine': expected one of cosine, linear"),
        (CONFIG, ["--learning_rate", "fast"], "training.learning_rate: expected a number, got 'fast'"),
        ("nowhere.yaml", [], "config file nowhere.yaml: No such file or directory"),
    ],
    ids=["wrong key", "unknown name", "no number", "missing file"],
)
def test_a_typo_is_refused_before_anything_heavy_is_imported(command, config, words, named):
    status, _, said, imported = answer(command, *BEFORE[command], config, *AFTER.get(command, []), *words)
    assert status == 2
    assert len(said) == 1 and said[0].startswith("error: ") and named in said[0]
    assert imported == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("benchmark", ["rollout", "--shape", "9B"]),
        ("compare", ["one.json"]),
        ("compare_estimators", ["--selection", "luck"]),
        ("doctor", ["tiny", *WRONG_KEY]),
        ("leaderboard", ["nowhere.yaml"]),
        ("plot_schedules", ["--steps", "many"]),
    ],
)
def test_commands_without_a_config_refuse_a_typo_as_early(command, words):
    status, _, said, imported = answer(command, *words)
    assert status == 2
    assert len(said) == 1 and said[0].startswith("error: ")
    assert imported == []


def test_every_command_is_covered():
    assert {*BEFORE, "benchmark", "compare", "compare_estimators", "doctor", "leaderboard", "plot_schedules"} == set(
        COMMANDS
    )
