"""From the section `task` of a config to a task module and its splits, with one clear error for what does not fit.

A task is a module, ours or a file of the user's, with four things: `build_prompt(question) -> str`;
`load_splits(*, ...) -> {"train", "validation", "test": Dataset}`; `verify(completion, answer) -> verdict` with
`strict` and `lenient`; `REWARDS`, TRL reward functions by name. Its options are the keyword arguments of its own
load_splits, by their names in the section `task` or in `task.options`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from datasets import Dataset

from trainers.evaluating.solved import sometimes_solved
from trainers.rewarding.arguments import Reward, check_arguments
from trainers.rewarding.chosen import choose
from trainers.rewarding.held_out import RewardJudge, try_once
from trainers.settings.options import ConfigError, dotted
from trainers.settings.task import OWN, TaskArguments, is_place
from trainers.settings.user_code import import_file
from trainers.tasks import TASKS
from trainers.tasks.messages import flaw_of, text_of

SPLITS = ("train", "validation", "test")
COLUMNS = ("prompt", "completion", "answer", "cluster")
FUNCTIONS = ("build_prompt", "load_splits", "verify")
TRIED = 16  # reference completions that a task of one's own has to find right
TRIED_REWARDS = 2  # reference completions that a reward of one's own is called with

# field of TaskArguments -> argument of load_splits; None stands for the field's own name
ARGUMENTS = {
    "data_files": None,
    "dataset_name": None,
    "dataset_config": None,
    "task_columns": "columns",
    "train_size": None,
    "validation_size": None,
    "test_size": None,
    "task_seed": "seed",
    "min_operations": None,
    "max_operations": None,
    "max_number": None,
}
TRAINING_DATA = ("solutions", "perturbed_copies", "extra_files")  # one argument, training_data


@dataclass(frozen=True)
class Task:
    """A task as an experiment uses it.

    Attributes:
        module: ours or the user's.
        rewards: those that were chosen, by name, in the order of training.reward_weights.
        verify: (completion, answer) -> verdict; None: only rewards judge.
        judge: the rewards of the user's own files, whose means are measured on held-out problems; None: none.
    """

    module: ModuleType
    rewards: Mapping[str, Reward]
    verify: Callable[[str, Any], Any] | None
    judge: RewardJudge | None = None


def load_task(arguments: TaskArguments) -> tuple[Task, dict[str, Dataset]]:
    """The task, with its rewards, and its splits (train, validation, test).

    Raises:
        ConfigError: an unknown task, reward or option, a file that is no task, a reward that cannot be called with
            this data, a missing or malformed data file, impossible sizes, splits that share a cluster.
    """
    module = find_task(arguments)
    values = _values(module, arguments)
    # before the data is read, which may take long
    rewards = choose(arguments.rewards, module.REWARDS, arguments.label)
    try:
        splits = module.load_splits(**values)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(str(error)) from error
    if module is TASKS[OWN]:
        given = splits["train"].column_names
        if arguments.rewards is None and not _answers_itself(splits["train"]):
            rewards = {}  # nothing was asked for, and a comparison with the answer would tell nothing
        _check_rewards(rewards, given)
        splits = {name: _filled(rows) for name, rows in splits.items()}
    check_splits(splits, arguments.label)
    if arguments.task_path is not None:
        _try_verifier(module, splits["test"], arguments.task_path)
    task = _task(module, rewards, arguments)
    if task.judge is not None:
        _try_rewards(task.judge, splits["train"])
    if arguments.sometimes_solved is not None:
        splits["train"] = sometimes_solved(splits["train"], Path(arguments.sometimes_solved))
    return task, splits


def _task(module: ModuleType, rewards: Mapping[str, Reward], arguments: TaskArguments) -> Task:
    files = [entry.rpartition(":")[2] for entry in arguments.rewards or () if is_place(entry)]
    judge = RewardJudge({name: rewards[name] for name in files}, arguments.reward_time_limit) if files else None
    # of data of the user's own nobody knows what is right, unless they ask for the comparison with the answer
    verifies = module is not TASKS[OWN] or "correctness" in rewards
    return Task(module, rewards, module.verify if verifies else None, judge)


def _answers_itself(rows: Dataset) -> bool:
    """Whether the data has answers, and its own completions are equal to them."""
    if not {"answer", "completion"} <= set(rows.column_names):
        return False
    tried = rows.select(range(min(TRIED, len(rows))))
    return all(TASKS[OWN].verify(c, a).strict for c, a in zip(tried["completion"], tried["answer"], strict=True))


def _filled(rows: Dataset) -> Dataset:
    """With the columns that every task has; empty where the data has none."""
    description = rows.info.description
    for name in ("completion", "answer"):
        if name not in rows.column_names:
            rows = rows.add_column(name, [""] * len(rows))
    rows.info.description = description
    return rows


def _try_rewards(judge: RewardJudge, train: Dataset) -> None:
    """A reward that fails on what is right would teach nothing, in every step of a run."""
    rows = train.select(range(min(TRIED_REWARDS, len(train))))
    _check_rewards(judge.rewards, train.column_names)
    try_once(judge, [text_of(prompt) for prompt in rows["prompt"]], {name: rows[name] for name in rows.column_names})


def _check_rewards(rewards: Mapping[str, Reward], columns: Sequence[str]) -> None:
    for name, reward in rewards.items():
        check_arguments(reward, columns, "task.reward", name)


def find_task(arguments: TaskArguments) -> ModuleType:
    """The module of a task, ours by name or the user's by path."""
    if arguments.task_path is not None:
        return _import_task(arguments.task_path)
    name = arguments.label
    if name not in TASKS:
        raise ConfigError(f"task.name={name!r}: expected one of {', '.join(TASKS)}, or a file in task.path")
    return TASKS[name]


def _import_task(path: str) -> ModuleType:
    """A user's file as a module, checked for what a task must have."""
    module = import_file(path, "task.path")
    missing = [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
    if missing:
        raise ConfigError(f"task.path={path!r}: it has no function {missing[0]}; a task has {', '.join(FUNCTIONS)}")
    rewards = getattr(module, "REWARDS", None)
    if not isinstance(rewards, dict) or not rewards or not all(callable(reward) for reward in rewards.values()):
        raise ConfigError(f"task.path={path!r}: REWARDS is {rewards!r}; expected reward functions by name")
    return module


def _values(task: ModuleType, arguments: TaskArguments) -> dict[str, Any]:
    """The keyword arguments of the task's load_splits; an option that it does not have must not be set."""
    declared = inspect.signature(task.load_splits).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in declared.values())
    options = {option.name: option for option in fields(arguments)}
    values: dict[str, Any] = {}
    for name, argument in ARGUMENTS.items():
        if takes_all or (argument or name) in declared:
            values[argument or name] = getattr(arguments, name)
        else:
            _refuse_if_set(arguments, options[name])
    if takes_all or "training_data" in declared:
        values["training_data"] = arguments.training_data()
    else:
        for name in TRAINING_DATA:
            _refuse_if_set(arguments, options[name])
    return values | _own_options(declared, takes_all, values, arguments)


def _refuse_if_set(arguments: TaskArguments, option: Any) -> None:
    value = getattr(arguments, option.name)
    if value != option.default:
        raise ConfigError(f"{dotted(option)}={value!r}: task {arguments.label} has no such option")


def _own_options(declared: Any, takes_all: bool, taken: dict[str, Any], arguments: TaskArguments) -> dict[str, Any]:
    """`task.options`, each of which the task must declare, and each of which without a default must be there."""
    own = {name: p for name, p in declared.items() if name not in taken and p.kind is not p.VAR_KEYWORD}
    told = arguments.task_options
    assert isinstance(told, dict)  # since __post_init__
    for name, value in told.items():
        if not (takes_all or name in own) or name in taken:
            has = f"its own are {', '.join(own)}" if own else "it has none of its own"
            raise ConfigError(f"task.options: {name}={value!r}: task {arguments.label} has no such option; {has}")
    for name, parameter in own.items():
        if parameter.default is parameter.empty and name not in told:
            raise ConfigError(f"task.options: {name} is missing, which task {arguments.label} cannot do without")
    return told


def check_splits(splits: dict[str, Dataset], label: str) -> None:
    """Raise ConfigError unless there are three splits of text columns, none empty, of which no two share a cluster."""
    if not isinstance(splits, dict) or set(splits) != set(SPLITS):
        raise ConfigError(f"task {label}: load_splits returned {list(splits)}; expected {', '.join(SPLITS)}")
    for split, rows in splits.items():
        missing = [name for name in COLUMNS if name not in rows.column_names]
        if missing:
            raise ConfigError(f"task {label}: split {split} has no column {missing[0]!r}; expected {COLUMNS}")
        if len(rows) == 0:
            raise ConfigError(f"task {label}: split {split} is empty")
        flaws = ((i, flaw_of(prompt)) for i, prompt in enumerate(rows["prompt"]))
        flawed = next(((i, flaw) for i, flaw in flaws if flaw), None)
        if flawed:
            raise ConfigError(f"task {label}: split {split}, row {flawed[0]}: {flawed[1]}")
    owner: dict[str, str] = {}
    for split in SPLITS:
        for cluster in set(splits[split]["cluster"]):
            if owner.setdefault(cluster, split) != split:
                both = f"{owner[cluster]} and {split}"
                raise ConfigError(
                    f"task {label}: {both} share cluster {cluster!r}; splits must be disjoint in clusters"
                )


def _try_verifier(task: ModuleType, problems: Dataset, path: str) -> None:
    """A verifier that does not know its own reference completions would make every number of a run wrong."""
    verify: Callable[[str, str], Any] = task.verify
    tried = problems.select(range(min(TRIED, len(problems))))
    for completion, answer in zip(tried["completion"], tried["answer"], strict=True):
        shown = f"verify({completion!r}, {answer!r})"
        try:
            verdict = verify(completion, answer)
            strict, lenient = bool(verdict.strict), bool(verdict.lenient)
        except Exception as error:
            raise ConfigError(f"task.path={path!r}: {shown} raised {type(error).__name__}: {error}") from error
        if not strict or not lenient:
            raise ConfigError(
                f"task.path={path!r}: {shown} is {verdict!r}; a test problem's own completion must be right, strictly "
                "and leniently"
            )
