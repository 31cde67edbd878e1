"""Commands that a text shows, with sizes that take seconds; those that cannot be run here, each with its reason."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from shown import Command

from trainers.settings.parser import SectionParser, read
from trainers.settings.shipped import find_or_none

# commands that are read and not run: script -> why
NOT_RUN = {
    "harness": "needs the extra `harness`; tests/trainers/evaluating/test_harness.py runs the bridge",
    "leaderboard": "trains a board of runs; tests/trainers/studies/leaderboard/test_running.py runs a small one",
    "benchmark": "measures for minutes; tests/trainers/benchmarking/test_script.py runs it on small shapes",
    "compare": "needs two records; tests/trainers/evaluating/test_evaluate_script.py makes and compares them",
    "compare_processes": "starts several processes; tests/trainers/distributed run them",
    "export": "tests/scripts/test_export.py runs it on checkpoints of every kind",
}
# words of a command that say what is lacking here: it is read and not run
LACKING = {
    "smollm2": "the weights of SmolLM2, which `make smollm2` installs",
    "--deepspeed": "DeepSpeed",
    "--fsdp": "several processes; tests/trainers/distributed/test_sharded.py runs them",
    "bf16": "hardware with bfloat16; on a CPU it takes minutes",
    "--help": "nothing, and tests/scripts/test_startup.py asks every command for it",
    "--resume_from_checkpoint": "a run to resume; tests/trainers/faults resume some",
    "--sometimes_solved": "a record of many samples",
    "--check": "a quiet machine",
}

TRAIN = {
    "training.max_steps": "2",
    "training.per_device_train_batch_size": "8",
    "training.per_device_eval_batch_size": "8",
    "training.gradient_accumulation_steps": "1",
    "training.save_strategy": "no",
    "task.train_size": "64",
    "task.validation_size": "8",
    "task.test_size": "8",
}
EVALUATE = {"task.train_size": "64", "task.validation_size": "8", "task.test_size": "8"}
# script -> settings of its config, and own options, that make it short
SIZES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "train": (TRAIN, {}),
    "evaluate": (EVALUATE, {"limit": "4", "repeats": "4"}),
    "generate": ({}, {}),
    "doctor": ({}, {}),
    "export": ({}, {}),
    "plan": ({}, {"check": "1"}),
    "plot_schedules": ({}, {}),
    "compare": ({}, {}),
    "compare_estimators": (
        {},
        {"train_steps": "2", "draws": "2", "batches": "16", "batch_size": "4", "problems": "1", "completions": "2"},
    ),
    "measure_sampling": (EVALUATE, {"repeats": "1"}),
    "compare_processes": (TRAIN, {"steps": "10", "repeats": "1"}),
}


def shrunk(command: Command) -> list[str]:
    """The words of a command with its sizes put in place of those that it has."""
    settings, own = SIZES[command.script]
    words = list(command.words)
    if settings:
        names = SectionParser(read(_config_words(words)).trainer).names
        fields = {names[name] for name in settings}
        words = _without(words, lambda option: names.get(option.replace("-", "_")) in fields)
    present = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
    words = _without(words, lambda option: option in own)
    given = {name: value for name, value in own.items() if name in present or name not in ("check", "repeats")}
    return [*words, *(part for name, value in {**given, **settings}.items() for part in (f"--{name}", value))]


def started(command: Command, folder: Path) -> list[str]:
    """`shrunk`, from the embedded model where it starts from that of a run that is not there.

    Args:
        command: that can be run.
        folder: where it runs.
    """

    def gone(model: str) -> bool:
        return model.startswith("runs/") and not (folder / model).exists()

    words = ["tiny" if word.endswith("/model") and gone(word) else word for word in shrunk(command)]
    named = "--model.name_or_path" in words
    return words if named or not gone(_weights(command)) else [*words, "--model.name_or_path", "tiny"]


def _config(words: Sequence[str]) -> Path | None:
    """The config that a command names, by its path or by its name."""
    leading = takewhile(lambda word: not word.startswith("--"), words)
    return next((path.resolve() for path in map(find_or_none, leading) if path is not None), None)


def _config_words(words: list[str]) -> list[str]:
    config = _config(words)
    return [*([str(config)] if config else []), *_option(words, "--trainer")]


def _option(words: list[str], name: str) -> list[str]:
    return words[words.index(name) : words.index(name) + 2] if name in words else []


def _without(words: list[str], drop: Callable[[str], bool]) -> list[str]:
    """The words without some options and their values."""
    kept, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = drop(word[2:].partition("=")[0])
        if not dropping:
            kept.append(word)
    return kept


# ---- what can be run ------------------------------------------------------------------------------------------------


def lacking(command: Command, folder: Path) -> str | None:
    """Why a command is not run; None: it is.

    Args:
        command: whose options were found to be right.
        folder: where it would run.
    """
    if command.script in NOT_RUN:
        return NOT_RUN[command.script]
    reasons = [reason for word, reason in LACKING.items() if any(word in given for given in command.words)]
    model = _weights(command)
    if not reasons and model != "tiny" and not model.startswith("runs/") and not (folder / model).exists():
        return f"the weights of {model}"
    return reasons[0] if reasons else None


def kinds(commands: list[Command]) -> list[Command]:
    """The first command of each kind: of train for each config, of others for each command."""
    first: dict[tuple[str, Path | None], Command] = {}
    for command in commands:
        config = _config(command.words) if command.script == "train" else None
        first.setdefault((command.script, config), command)
    return list(first.values())


def _weights(command: Command) -> str:
    """The model that a command loads: the one it names, its config's, or `tiny`."""
    words = list(command.words)
    named = _option(words, "--model.name_or_path")[1:]
    configs = _config_words(words)
    return named[0] if named else read(configs).values.get("model_name_or_path", "tiny") if configs else "tiny"
