"""Every command answers `--help`, a wrong key and a missing file before torch, transformers and TRL are imported, and
so does the console command in front of them.

What that saves in seconds is measured by `scripts/benchmark.py startup`, and is no test.
"""

import re
import subprocess
import sys
import tomllib

import pytest
from paths import CONFIGS, REPO, SCRIPTS

HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
COMMANDS = sorted(path.stem for path in SCRIPTS.glob("*.py"))
CONFIG = str(CONFIGS / "trajectory_nelbo_gsm8k.yaml")
WRONG_KEY = ["--los.alpha_min", "0.1"]

# what stands before the config, for commands that take one
BEFORE = {"train": [], "evaluate": [], "generate": [], "measure_sampling": [], "compare_processes": [], "export": []}
BEFORE |= {"harness": [], "plan": ["tiny", "1xcpu", "1h"]}
WITHOUT = {"benchmark", "compare", "compare_estimators", "configs", "doctor", "leaderboard", "plot_schedules"}
AFTER = {"export": ["--output", "nowhere"], "harness": ["--tasks", "arc_easy"]}

RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    if sys.argv[0] == "trajectory-nelbo":
        from trainers.commands.console import main
        main()
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *sorted({name.partition(".")[0] for name in sys.modules} & set(%r)), file=sys.stderr)
"""


def answer(command, *words):
    """Exit status, standard output, lines of standard error, and the heavy packages that were imported."""
    return answer_of([str(SCRIPTS / f"{command}.py"), *words])


def answer_of(called):
    """`answer`, of a script's path or of the console, with words."""
    argv = [sys.executable, "-c", RUN % (HEAVY,), *called]
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


def entries(shown, title):
    """Name -> text, of a block of a help."""
    block = shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^  (\S.*?)(?:  +(?=\S)|\n)((?:.*\n?)(?:^ {4,}.*\n?)*)", block + "\n", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


MODES = ["rollout", "loss", "train", "code", "init", "startup"]  # of benchmark


@pytest.mark.parametrize(("command", "mode"), [(c, []) for c in COMMANDS] + [("benchmark", [mode]) for mode in MODES])
def test_what_belongs_to_a_command_is_explained_in_sentences(command, mode):
    shown = answer(command, *mode, "--help")[1]
    usage = " ".join(shown.partition("\n\n")[0].split())
    arguments, options = entries(shown, "arguments"), entries(shown, "options")
    assert [name for name in arguments if name not in usage] == []
    assert [name for name in options if not name.startswith("-")] == [] and "-h, --help" in " ".join(options)
    texts = arguments | options
    assert {name: text for name, text in texts.items() if not re.fullmatch(r"[A-Z0-9].*\.", text)} == {}
    required = [name for name in options if name.split()[0] in usage.split()]
    assert ("[options]" in usage) == (len(options) > len(required) + 1), "but for what must be given, and --help"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_the_console_gives_the_same_help_by_its_own_name(command, asked):
    status, shown, said, imported = answer_of(["trajectory-nelbo", command.replace("_", "-"), asked])
    assert status == 0 and not said and imported == []
    assert shown.startswith(f"usage: trajectory-nelbo {command} ")
    assert max(map(len, shown.splitlines())) < 80, "it goes through a pipe"
    assert f"scripts/{command}.py" not in shown
    own = answer(command, asked)[1]
    flat, own = (" ".join(text.replace("\\\n", "").split()) for text in (shown, own))
    called = own.replace(f"python scripts/{command}.py", f"trajectory-nelbo {command}")
    called = called.replace(f"scripts/{command}.py", f"--no-python trajectory-nelbo {command}")
    assert flat == called.replace(f"{command}.py", f"trajectory-nelbo {command}")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_console_lists_every_command_on_a_line(words):
    status, shown, said, imported = answer_of(["trajectory-nelbo", *words])
    assert status == 0 and not said and imported == []
    lines = [line for line in shown.splitlines() if line.startswith("  ") and not line.lstrip().startswith("-")]
    assert {line.split()[0] for line in lines} == set(COMMANDS) and len(lines) == len(COMMANDS)
    assert max(map(len, shown.splitlines())) < 80


def test_the_console_says_its_version():
    status, shown, said, imported = answer_of(["trajectory-nelbo", "--version"])
    assert status == 0 and not said and imported == []
    assert shown == f"trajectory-nelbo {tomllib.loads((REPO / 'pyproject.toml').read_text())['project']['version']}\n"


def test_the_console_names_the_command_that_is_close():
    status, shown, said, imported = answer_of(["trajectory-nelbo", "trian", "x"])
    assert (status, shown, imported) == (2, "", [])
    assert said == ["error: unknown command 'trian': did you mean 'train'? (`trajectory-nelbo --help` lists all)"]


def test_the_console_refuses_a_typo_in_a_setting_as_early():
    status, _, said, imported = answer_of(["trajectory-nelbo", "train", "trajectory_nelbo_gsm8k", *WRONG_KEY])
    assert (status, imported) == (2, [])
    assert len(said) == 1 and "did you mean 'loss.alpha_min'?" in said[0]


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
        ("configs", ["trajectory_nelbo_gsm9k"]),
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
    assert BEFORE.keys() | WITHOUT == set(COMMANDS)
