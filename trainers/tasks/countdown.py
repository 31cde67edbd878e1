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

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from typing import TypeGuard

import datasets

from trainers.tasks.arithmetic import MAX_EXPRESSION_TOKENS as MAX_EXPRESSION_TOKENS  # a bound on its completions
from trainers.tasks.arithmetic import OPERATIONS, parse, value_of
from trainers.tasks.augmentation import UNCHANGED, TrainingData
from trainers.tasks.generating import draw_split
from trainers.tasks.hub import read_hub
from trainers.tasks.sources import TEST_SIZE, VALIDATION_SIZE, carve, check_generator, check_sources, read_jsonl
from trainers.tasks.verdicts import Verdict as Verdict  # the tasks' own name for it
from trainers.tasks.verdicts import text_of

NAME = "countdown"

TRAIN_SIZE = 16384  # embedded problems; a real training file is used whole

MAX_OPERATIONS = 3  # four numbers: the search for a reference expression stays within milliseconds
MIN_MAX_NUMBER = 2
MAX_MAX_NUMBER = 1000
MAX_TARGET_RATIO = 5  # target / max_number of an embedded problem; without a bound, products take most of the targets
MAX_VALUE = 10**9 - 1  # of a number or target in a file

MAX_NUMBER_DIGITS = 9
COUNTDOWN_FILE = "a Countdown jsonl file"

PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "": 3}  # "" is a bare number

NUMBER = re.compile(rf"[1-9][0-9]{{0,{MAX_NUMBER_DIGITS - 1}}}")
# Anything glued to a number (a letter, a decimal part, a foreign digit) spoils it. Linear time: nothing to backtrack
# into, as each part starts with a character that the one before it cannot take.
TOKEN = re.compile(r"\w+(?:[.,]\d+)*|\n|\S")
ANSWER = re.compile(rf"({NUMBER.pattern}(?: {NUMBER.pattern})+)=({NUMBER.pattern})")


def build_prompt(question: str) -> str:
    """Return the prompt of a question; the completion starts right after it."""
    return f"{question}\nAnswer:"


# --- verifier and rewards -------------------------------------------------------------------------


@dataclass(frozen=True)
class Instance:
    """Numbers in ascending order, and the target; the unit that splits are disjoint in."""

    numbers: tuple[int, ...]
    target: int

    def __str__(self) -> str:
        return f"{' '.join(map(str, self.numbers))}={self.target}"

    def question(self) -> str:
        return f"Use {', '.join(map(str, self.numbers))} to get {self.target}."

    def solved_by(self, tokens: list[str]) -> bool:
        """Whether the tokens are an expression of exactly these numbers with the target as value."""
        numbers = sorted(int(token) for token in tokens if NUMBER.fullmatch(token))
        return tuple(numbers) == self.numbers and evaluate(tokens) == self.target


def verify(completion: str, answer: str) -> Verdict:
    """Check the expression of a completion in exact rational arithmetic, without evaluating any text.

    Args:
        completion: text of the model. Strict wants one expression and nothing else but blanks. Lenient reads the last
            expression of the text, so that "Try (3+4)*7 = 49." is right; an expression does not cross a line.
        answer: the instance, as in the `answer` column.

    Raises:
        ValueError: `answer` is not an instance.
    """
    match = ANSWER.fullmatch(answer)
    if match is None:
        raise ValueError(f"answer = {answer!r}: expected numbers and a target such as '3 4 7=49'")
    instance = Instance(tuple(sorted(map(int, match[1].split()))), int(match[2]))
    strict = instance.solved_by(_tokens(completion.strip()))
    return Verdict(strict=strict, lenient=strict or instance.solved_by(_last_expression(completion)))


def correctness(completions: list, answer: list[str], **kwargs) -> list[float]:
    """Reward 1.0 for a strictly correct completion (see `verify`), else 0.0."""
    return [float(verify(text_of(c), a).strict) for c, a in zip(completions, answer, strict=True)]


def format_reward(completions: list, **kwargs) -> list[float]:
    """Reward 1.0 for a completion that is one expression and nothing else; its numbers and value may be wrong."""
    return [float(evaluate(_tokens(text_of(c).strip())) is not None) for c in completions]


REWARDS = {"correctness": correctness, "format": format_reward}


def _tokens(text: str) -> list[str]:
    return TOKEN.findall(text)


def _last_expression(text: str) -> list[str]:
    """Return the tokens of the last expression in a text, empty if there is none."""
    runs: list[list[str]] = [[]]
    for token in _tokens(text):
        if token in OPERATIONS or token in "()" or NUMBER.fullmatch(token):
            runs[-1].append(token)
        else:
            runs.append([])
    return next((run for run in reversed(runs) if evaluate(run) is not None), [])


def evaluate(tokens: list[str]) -> Fraction | None:
    """Value of an expression; None for anything else, a division by zero or too long a text included."""
    if not all(token in OPERATIONS or token in "()" or NUMBER.fullmatch(token) for token in tokens):
        return None
    term = parse(tokens)
    return None if term is None else value_of(term)


# --- expressions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """A value with how it was made: an operation on two terms, or a given number (no sign)."""

    value: Fraction
    sign: str = ""
    operands: "tuple[Term, ...]" = ()

    def combined(self, sign: str, right: "Term") -> "Term":
        """`self sign right`."""
        return Term(OPERATIONS[sign](self.value, right.value), sign, (self, right))

    def __str__(self) -> str:
        """The expression, with the parentheses that it needs and no others."""
        if not self.sign:
            return str(self.value)
        left, right = self.operands
        rank = PRECEDENCE[self.sign]
        # a-(b+c) and a/(b*c) keep parentheses among equals; a+(b-c) and a*(b/c) do not need them
        return f"{left._inside(rank)}{self.sign}{right._inside(rank + (self.sign in '-/'))}"

    def _inside(self, rank: int) -> str:
        return f"({self})" if PRECEDENCE[self.sign] < rank else str(self)


def _leaves(numbers: tuple[int, ...]) -> list[Term]:
    return [Term(Fraction(number)) for number in numbers]


def _whole_results(one: Term, other: Term) -> list[Term]:
    """Every operation on two positive terms, larger first, whose result is a positive whole number."""
    left, right = (one, other) if one.value >= other.value else (other, one)
    allowed = {"+": True, "-": left.value > right.value, "*": True, "/": left.value % right.value == 0}
    return [left.combined(sign, right) for sign in OPERATIONS if allowed[sign]]


def _all_results(one: Term, other: Term) -> list[Term]:
    """Every operation on two terms in either order."""
    orders = ((one, other), (other, one))
    return [left.combined(sign, right) for left, right in orders for sign in OPERATIONS if sign != "/" or right.value]


def _reachable(terms: list[Term], results: Callable[[Term, Term], list[Term]]) -> Iterator[Term]:
    """Every term that uses all the given ones."""
    if len(terms) == 1:
        yield terms[0]
    for i, j in combinations(range(len(terms)), 2):
        others = [term for k, term in enumerate(terms) if k not in (i, j)]
        for term in results(terms[i], terms[j]):
            yield from _reachable([*others, term], results)


@lru_cache(maxsize=TRAIN_SIZE)
def solve(instance: Instance) -> str | None:
    """Return a right expression, the same one for equal instances, or None if there is none.

    Results in between are positive and whole where that is possible; additions are tried first.
    """
    leaves = _leaves(instance.numbers)
    found = (t for results in (_whole_results, _all_results) for t in _reachable(leaves, results))
    return next((str(term) for term in found if term.value == instance.target), None)


# --- embedded problems ----------------------------------------------------------------------------


def split_of(instance: Instance) -> str:
    """Assign an instance to train (80%), validation (10%) or test (10%), the same in every run and for every seed."""
    digest = hashlib.sha256(f"{NAME}|{instance}".encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def draw_instance(rng: random.Random, num_operations: int, max_number: int) -> Instance:
    """Draw numbers uniformly from 1 to `max_number`, then join two random terms by a random operation until one is
    left: the target. Results in between are positive and whole."""
    numbers = tuple(sorted(rng.randint(1, max_number) for _ in range(num_operations + 1)))
    terms = _leaves(numbers)
    while len(terms) > 1:
        rng.shuffle(terms)
        terms.append(rng.choice(_whole_results(terms.pop(), terms.pop())))
    return Instance(numbers, int(terms[0].value))


def generate(
    split: str, size: int, *, seed: int, min_operations: int, max_operations: int, max_number: int
) -> list[Instance]:
    """Draw the instances of one split; one may repeat in train only.

    Raises:
        ValueError: the split has fewer distinct instances than a held-out `size`, or none at all.
    """

    def draw(rng: random.Random) -> Instance | None:
        instance = draw_instance(rng, rng.randint(min_operations, max_operations), max_number)
        fits = instance.target <= MAX_TARGET_RATIO * max_number and split_of(instance) == split
        return instance if fits else None

    described = f"instances with {min_operations} to {max_operations} operations and max_number = {max_number}"
    return draw_split(draw, split, size, seed=seed, described=described)


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
