"""The section `task`: which problems, from where, with which rewards."""
# ruff: noqa: RUF009 (`option` is dataclasses.field with its metadata)

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.settings.options import ConfigError, check_known, option, require
from trainers.tasks.training_data import TrainingData

AUTO = "auto"
DEFAULT, OWN = "gsm8k", "own"  # names of tasks
CHAT_TEMPLATES = ("auto", "true", "false")


@dataclass
class TaskArguments:
    """Which task (one of trainers/tasks, or one of your own), on which data, with which rewards."""

    task_name: str | None = option(
        "task",
        None,
        "The task: gsm8k, svamp, countdown, sudoku, math, code, or own, prompts and answers of your own from "
        "task.data_files or task.dataset_name. Unset: own where one of these two is set, else gsm8k.",
        key="name",
    )
    task_path: str | None = option(
        "task",
        None,
        "A task of your own, in place of task.name: a Python file with build_prompt, load_splits, verify and REWARDS "
        "(docs/tasks.md).",
        key="path",
    )
    task_options: dict[str, Any] | str | None = option(
        "task",
        None,
        "Options that this task alone has, as key: value pairs (on the command line as JSON); they are the further "
        "keyword arguments of its load_splits.",
        key="options",
    )
    data_files: list[str] | None = option(
        "task",
        None,
        "Local files, [train] or [train, test]; of task own jsonl, csv or parquet with a column prompt (and answer or "
        "completion) or messages; unset: the task's seeded generator.",
    )
    dataset_name: str | None = option("task", None, "A hub dataset, such as openai/gsm8k (2110.14168).")
    dataset_config: str | None = option(
        "task", None, "Configuration of the hub dataset of task own, where it has several, such as main."
    )
    task_columns: dict[str, Any] | str | None = option(
        "task",
        None,
        "How the columns of the data of task own are called, where they are not called prompt, answer, completion or "
        'messages: {"prompt": "question", "answer": "solution"} (on the command line as JSON).',
        key="columns",
    )
    train_size: int | None = option("task", None, "Training problems; unset: the task's choice.")
    validation_size: int | None = option("task", None, "Validation problems; unset: the task's choice.")
    test_size: int | None = option("task", None, "Test problems; unset: the task's choice.")
    chat_template: str = option(
        "task",
        AUTO,
        "Whether prompts are put into the chat template of the model's tokenizer, and completions end with its turn. "
        "auto: as the checkpoint was trained here; else where the tokenizer has a template that the model was tuned "
        "on (docs/tasks.md).",
        known=CHAT_TEMPLATES,
    )
    system_prompt: str | None = option(
        "task",
        None,
        "The system message of the chat template; unset: as the checkpoint was trained here, or what the template "
        "does by itself; empty text: the latter.",
    )
    task_seed: int = option(
        "task", 0, "Seed of the generated problems, of the split and of perturbed copies.", key="seed"
    )
    min_operations: int = option("task", 1, "Fewest arithmetic operations in a generated problem.")
    max_operations: int = option("task", 1, "Most arithmetic operations in a generated problem.")
    max_number: int = option("task", 20, "Largest number in a generated problem.")
    solutions: list[str] | None = option(
        "task",
        None,
        "Styles of the solutions of word problems from files or the hub: full is the human text, equations only its "
        "calculator annotations. Each training problem appears in every style listed, and the prompt says which is "
        "wanted; validation and test have the first. Unset: full.",
    )
    perturbed_copies: int = option(
        "task",
        0,
        "Most copies with other numbers and a recomputed solution of each training problem from files or the hub; "
        "only problems whose every number can be traced get any.",
    )
    extra_files: list[str] | None = option(
        "task",
        None,
        "Further training files beside the task's own, GSM8K jsonl or SVAMP.json; what is held out, and the test "
        "part of SVAMP, is left out.",
    )
    sometimes_solved: str | None = option(
        "task",
        None,
        "Record of scripts/evaluate.py --split train --repeats N: train only on its problems of which some samples "
        "were right and some wrong (strictly), as a group whose rewards are all equal teaches nothing.",
    )
    rewards: list[str] | None = option(
        "task",
        None,
        "Reward functions: names of the task's, and functions of your own as FILE.py:FUNCTION or "
        "package.module:FUNCTION (docs/tasks.md), summed with training.reward_weights (one each; unset: 1; 0: only "
        "logged). Unset: correctness and format, where the task has them. task.reward is another name for it.",
        alias="reward",
    )
    reward_time_limit: float = option(
        "task",
        60.0,
        "Seconds that one call of a reward, or of the verifier, may take for its batch of completions. What fails or "
        "takes longer is tried once more, completion by completion, in the same time; what fails again is left out.",
    )

    def __post_init__(self):
        for name in ("train_size", "validation_size", "test_size", "min_operations", "max_number"):
            value = getattr(self, name)
            require(self, name, value is None or value >= 1, "at least 1")
        fewest = f"at least task.min_operations={self.min_operations}"
        require(self, "max_operations", self.max_operations >= self.min_operations, fewest)
        if self.task_name is None:
            self.task_name = DEFAULT if self.data_files is None and self.dataset_name is None else OWN
        require(self, "rewards", self.rewards is None or bool(self.rewards), "at least one reward")
        once = self.rewards is None or len(set(self.rewards)) == len(self.rewards)
        require(self, "rewards", once, "each reward once")
        check_known(self)
        bare = self.chat_template == "false" and self.system_prompt
        require(self, "system_prompt", not bare, "none with task.chat_template=false, which has no place for it")
        require(self, "reward_time_limit", 0 < self.reward_time_limit < math.inf, "seconds above 0")
        both = self.data_files is None or self.dataset_name is None
        require(self, "dataset_name", both, f"no second source beside task.data_files={self.data_files!r}")
        # never None from here on; text is what the command line could not read as JSON
        self.task_options = {} if self.task_options is None else self.task_options
        pairs = "key: value pairs, on the command line as JSON such as"
        require(self, "task_options", isinstance(self.task_options, dict), pairs + ' {"min_blanks": 4}')
        mapped = self.task_columns is None or isinstance(self.task_columns, dict)
        require(self, "task_columns", mapped, pairs + ' {"prompt": "question"}')
        self.training_data()

    @property
    def label(self) -> str:
        """The task's name, for people; of a file of one's own the file's."""
        assert self.task_name is not None  # since __post_init__
        return self.task_name if self.task_path is None else Path(self.task_path).stem

    @property
    def identity(self) -> str:
        """What tells this task's verifier from another's: the name, with the content of a file of one's own."""
        return self.label if self.task_path is None else f"{self.label} {_sha256(self.task_path)}"

    @property
    def reward_identities(self) -> list[str]:
        """What tells the user's own rewards from others: their names, with the contents of their files."""
        places = [entry.rpartition(":") for entry in self.rewards or () if is_place(entry)]
        return [f"{name} {_sha256(file) if file.endswith('.py') else file}" for file, _, name in places]

    def training_data(self) -> TrainingData:
        """What the training split is made of, as a task wants it.

        Raises:
            ConfigError: an unknown or repeated style, or a negative number of copies.
        """
        styles = None if self.solutions is None else tuple(self.solutions)
        try:
            return TrainingData(styles, self.perturbed_copies, tuple(self.extra_files or ()))
        except ValueError as error:
            raise ConfigError(str(error)) from error


def is_place(entry: str) -> bool:
    """Whether an entry of task.rewards names a function in a file or module, rather than a reward of the task."""
    return ":" in entry or entry.endswith(".py")


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
