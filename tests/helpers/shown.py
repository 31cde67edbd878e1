"""Commands that a text shows: which of this project's they start, and whether these accept their options.

commands_in    a call (python scripts/x.py, torchrun, make, trajectory-nelbo, ...) -> commands of scripts/
flaws          commands -> what each says against its options, all in one process and without working
"""

import json
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from paths import REPO, SCRIPTS
from recorded import PLACEHOLDERS, STAND_INS, Call


@dataclass(frozen=True)
class Command:
    """A command of scripts/ with its words."""

    script: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.script, *self.words))


def commands_in(call: Call) -> list[Command]:
    """The commands of scripts/ that a call starts; of any other call, its files, targets and extras are looked for.

    Raises:
        AssertionError: it names something that is not there.
    """
    name, *words = (PLACEHOLDERS.get(word, word) for word in call.words)
    if name == "trajectory-nelbo":
        if not words or words[0].startswith("-"):
            return []  # it lists its commands
        script = words[0].replace("-", "_")
        assert (SCRIPTS / f"{script}.py").exists(), f"{call}: no such command"
        return [Command(script, tuple(words[1:]))]
    if name == "make":
        return _of_make(words)
    if name == "pip":
        _look_for_extras(words)
        return []
    if name == "sbatch":
        assert (REPO / words[0]).exists(), f"{call}: no such file"
        return [Command("train", tuple(words[1:]))]
    if STAND_INS[name]:
        return []
    return _of_python(call, words)


def _of_python(call: Call, words: list[str]) -> list[Command]:
    """Of python, torchrun or accelerate launch, whose own options stand before the script."""
    for position, word in enumerate(words):
        if word == "-m":
            return []  # a module of a library, such as pytest
        if word == "--config_file":
            assert (REPO / words[position + 1]).exists(), f"{call}: no such file"
        if word.endswith(".py"):
            assert (REPO / word).exists(), f"{call}: no such file"
            path = Path(word)
            return [Command(path.stem, tuple(words[position + 1 :]))] if path.parts[0] == "scripts" else []
    raise AssertionError(f"{call}: starts nothing of this repository")


def _of_make(words: list[str]) -> list[Command]:
    """What make would run, without making the environment first."""
    make = shutil.which("make")
    assert make, "make is missing"
    done = subprocess.run([make, "-n", "-o", ".venv/.installed", *words], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, f"make {' '.join(words)}: {done.stderr.strip()}"
    lines = [shlex.split(line, comments=True) for line in done.stdout.replace("\\\n", " ").splitlines()]
    started = [line for line in lines if len(line) > 1 and Path(line[1]).parts[0] == "scripts"]
    return [Command(Path(line[1]).stem, tuple(line[2:])) for line in started]


def _look_for_extras(words: list[str]) -> None:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        package, _, wanted = word.partition("[")
        if package in (".", "trajectory-nelbo") and wanted:
            missing = set(wanted.rstrip("]").split(",")) - set(extras)
            assert not missing, f"pip install {word}: no extra {', '.join(missing)}"


# ---- options --------------------------------------------------------------------------------------------------------

# Runs every command up to its first heavy import, by when it has read its options (tests/scripts/test_startup.py).
READER = """
import builtins, json, runpy, sys

class Read(BaseException):
    pass

def light(name, *arguments, real=builtins.__import__, **named):
    if name.partition(".")[0] in ("torch", "transformers", "trl", "datasets", "accelerate", "peft"):
        raise Read
    return real(name, *arguments, **named)

builtins.__import__ = light
for line in sys.stdin:
    words, said = json.loads(line), ""
    sys.argv, sys.stderr = words, open("said.txt", "w")
    try:
        runpy.run_path(words[0], run_name="__main__")
    except Read:
        pass
    except SystemExit as end:
        sys.stderr.flush()
        said = open("said.txt").read() or f"exit {end.code}" if end.code else ""
    except Exception as error:
        said = repr(error)
    sys.stderr = sys.__stderr__
    print("flaw:", json.dumps(said))
"""


def flaws(commands: list[Command], folder: Path) -> list[str]:
    """What each command says against its options; empty where it would begin to work."""
    lines = [json.dumps([str(SCRIPTS / f"{command.script}.py"), *command.words]) for command in commands]
    process = [sys.executable, "-c", READER]
    environment = {"PYTHONPATH": str(REPO), "PATH": ""}
    text = "\n".join(lines)
    done = subprocess.run(process, input=text, cwd=folder, env=environment, capture_output=True, text=True)
    found = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("flaw: ")]
    assert len(found) == len(commands), done.stderr
    return found
