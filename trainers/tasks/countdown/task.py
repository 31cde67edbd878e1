"""Countdown: combine every given number exactly once by + - * / so that the expression equals a target (Gandhi et al.
2024, arXiv:2404.03683, after the television game).

Nouns: an *instance* is the multiset of numbers with the target, "3 4 7=49"; an *expression* is an infix text of
positive whole numbers, + - * / and parentheses, with at least one operation; a *verdict* says whether a completion is
a right expression.

Convention: a completion is the expression and nothing else, "(3+4)*7". Numbers stand in ascending order in the prompt,
so that an instance has one prompt. Usually several expressions are right, and the verifier accepts any. Three sources
give the same columns (prompt, completion, answer; cluster, which is the instance): an embedded seeded generator, local
jsonl files of {"nums": [3, 4, 7], "target": 49}, and a dataset of the hub with these columns.
"""

from dataclasses import dataclass
from typing import TypeGuard

import datasets

from trainers.tasks.countdown.generator import MAX_MAX_NUMBER, MIN_MAX_NUMBER, generate
from trainers.tasks.countdown.instances import (
    TRAIN_SIZE,
    Instance,
    evaluate,
    last_expression,
    read_instance,
    tokens_of,
)
from trainers.tasks.countdown.solving import MAX_OPERATIONS, solve
from trainers.tasks.hub import read_hub
from trainers.tasks.sources import TEST_SIZE, VALIDATION_SIZE, carve, check_generator, check_sources, read_jsonl
from trainers.tasks.training_data import UNCHANGED, TrainingData
from trainers.tasks.verdicts import Verdict, text_of

NAME = "countdown"

MAX_VALUE = 10**9 - 1  # of a number or target in a file
COUNTDOWN_FILE = "a Countdown jsonl file"


def build_prompt(question: str) -> str:
    """Return the prompt of a question; the completion starts right after it."""
    return f"{question}\nAnswer:"


# --- verifier and rewards -------------------------------------------------------------------------


def verify(completion: str, answer: str) -> Verdict:
    """Check the expression of a completion in exact rational arithmetic, without evaluating any text.

    Args:
        completion: text of the model. Strict wants one expression and nothing else but blanks. Lenient reads the last
            expression of the text, so that "Try (3+4)*7 = 49." is right; an expression does not cross a line.
        answer: the instance, as in the `answer` column.

    Raises:
        ValueError: `answer` is not an instance.
    """
    instance = read_instance(answer)
    strict = instance.solved_by(tokens_of(completion.strip()))
    return Verdict(strict=strict, lenient=strict or instance.solved_by(last_expression(completion)))


def correctness(completions: list, answer: list[str], **kwargs) -> list[float]:
    """Reward 1.0 for a strictly correct completion (see `verify`), else 0.0."""
    return [float(verify(text_of(c), a).strict) for c, a in zip(completions, answer, strict=True)]


def format_reward(completions: list, **kwargs) -> list[float]:
    """Reward 1.0 for a completion that is one expression and nothing else; its numbers and value may be wrong."""
    return [float(evaluate(tokens_of(text_of(c).strip())) is not None) for c in completions]


REWARDS = {"correctness": correctness, "format": format_reward}


# --- real data ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """An instance with where it was read, for errors."""

    instance: Instance
    where: str


def _to_record(raw: object, where: str) -> Record:
    """Read one record {"nums", "target"}."""
    numbers, target = (raw.get("nums"), raw.get("target")) if isinstance(raw, dict) else (None, None)
    if not isinstance(numbers, list) or not all(map(_is_value, numbers)) or not _is_value(target):
        raise ValueError(
            f'{where}: expected {{"nums": [3, 4, 7], "target": 49}} with whole numbers from 1 to {MAX_VALUE}'
        )
    if not 2 <= len(numbers) <= MAX_OPERATIONS + 1:
        raise ValueError(f'{where}: "nums" has {len(numbers)} numbers; expected 2 to {MAX_OPERATIONS + 1}')
    return Record(Instance(tuple(sorted(numbers)), target), where)


def _is_value(value: object) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= MAX_VALUE  # JSON's true is an int to isinstance


# --- dataset --------------------------------------------------------------------------------------


def load_splits(
    *,
    data_files: list[str] | None,
    dataset_name: str | None,
    train_size: int | None,
    validation_size: int | None,
    test_size: int | None,
    seed: int,
    min_operations: int,
    max_operations: int,
    max_number: int,
    training_data: TrainingData = UNCHANGED,
) -> dict[str, datasets.Dataset]:
    """Load the disjoint splits train, validation and test with the text columns prompt, completion, answer and
    cluster.

    Args:
        data_files: jsonl files [train] or [train, test]; None with `dataset_name` None means embedded problems.
        dataset_name: a hub dataset with columns nums and target, such as "Jiayi-Pan/Countdown-Tasks-3to4". A reference
            expression is searched for every row that is kept: cap a long file with `train_size`.
        train_size: rows of train; for real data a cap. None: `TRAIN_SIZE` embedded problems, or all real rows.
        validation_size: rows of validation. None: `VALIDATION_SIZE`, of real data at most a tenth.
        test_size: rows of test; for a real test source a cap. None: `TEST_SIZE`, or all rows of a real test source.
        seed: seed of the generator, or of the carving of real rows.
        min_operations: fewest operations of an embedded problem, 1 to 3; there is one number more.
        max_operations: most operations of an embedded problem, 1 to 3.
        max_number: largest given number of an embedded problem; targets reach `MAX_TARGET_RATIO` times as far.
        training_data: must be left as it is.

    Raises:
        ValueError: a value is out of range, a size cannot be reached, or a record is malformed or has no solution.
        FileNotFoundError: a data file does not exist.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_sources(data_files, dataset_name, sizes)
    allowed = range(MIN_MAX_NUMBER, MAX_MAX_NUMBER + 1)
    check_generator(min_operations, max_operations, max_number, most_operations=MAX_OPERATIONS, numbers=allowed)
    training_data.refuse(f"only with a task of word problems; task {NAME} draws or reads as many as it is asked for")
    if data_files is not None or dataset_name is not None:
        sources = (
            read_hub(dataset_name, _to_record)
            if dataset_name is not None
            else [read_jsonl(path, _to_record, COUNTDOWN_FILE) for path in data_files or ()]
        )
        test = sources[1] if len(sources) == 2 else None
        records = carve(sources[0], test, lambda record: record.instance, sizes, seed, "instances")
    else:
        bounds = {"min_operations": min_operations, "max_operations": max_operations, "max_number": max_number}
        defaults = {"train": TRAIN_SIZE, "validation": VALIDATION_SIZE, "test": TEST_SIZE}
        records = {
            split: [Record(i, "generator") for i in generate(split, sizes[split] or default, seed=seed, **bounds)]
            for split, default in defaults.items()
        }
    return {split: datasets.Dataset.from_list([_to_row(r) for r in rows]) for split, rows in records.items()}


def _to_row(record: Record) -> dict[str, str]:
    instance = record.instance
    expression = solve(instance)
    if expression is None:
        raise ValueError(f"{record.where}: no expression of {instance.numbers} equals {instance.target}")
    return {
        "prompt": build_prompt(instance.question()),
        "completion": expression,
        "answer": str(instance),
        "cluster": str(instance),
    }
