r"""Competition mathematics in the format of MATH (Hendrycks et al. 2021, arXiv:2103.03874): a problem, a worked
solution, and an answer in \boxed{...}, any mathematical expression.

Nouns: a *box* is \boxed{...}, see `trainers.tasks.math.text`; a *verdict* says whether a completion states an answer
that is equal to the reference.

Convention: whether two answers are equal is left to the library math-verify (the extra `math`), in a worker process
with limits of time and memory: `trainers.tasks.math.judge`. Here only the box is found. Three sources give the same
columns (prompt, completion, answer; cluster, the problem without case and spacing): an embedded seeded generator of
sums of fractions, jsonl files of {"problem", "solution"} or {"problem", "answer"}, and a dataset of the hub with such
columns.

What math-verify takes for equal though it is not, in version 0.9 (the tests of this module have the table): a
percentage is the number and its hundredth at once, 50\% = 50 = 0.5; units, degrees, dollars and the base of a
numeral are dropped, 12_8 = 12; six decimals are enough, 0.333333 = 1/3; a pair needs no parentheses; of a chain of
equations the last part counts, 1 = 2 = 5 is 5. And it knows neither 1e3 nor 1 000. No rule of our own is put on top.
"""

from collections.abc import Callable
from dataclasses import dataclass

import datasets

from trainers.tasks.hub import read_hub
from trainers.tasks.math.fractions import FractionProblem, generate
from trainers.tasks.math.judge import MAX_LENGTH, Judge, check_installed
from trainers.tasks.math.text import Boxes, find_boxes, key_of
from trainers.tasks.sources import OTHER, carve, check_sources, read_jsonl
from trainers.tasks.verdicts import Verdict, text_of

NAME = "math"

SIZES = {"train": 16384, "validation": 256, "test": 512}  # embedded problems; a real training file is used whole

MIN_MAX_TERM = 3
MAX_MAX_TERM = 100

MATH_FILE = "a jsonl file of mathematical problems"

JUDGE = Judge()


def build_prompt(problem: str) -> str:
    """Return the prompt of a problem; the completion starts right after it."""
    return f"{problem}\nAnswer:"


# --- verifier and rewards -------------------------------------------------------------------------


def verify(completion: str, answer: str) -> Verdict:
    r"""Compare the answer in the box of a completion with the reference.

    Args:
        completion: text of the model. Strict wants one \boxed{...} and nothing but the end of a formula and a sentence
            after it. Lenient takes the last box; without any, the last formula that math-verify finds at the end of
            the text, `trainers.tasks.math.judge.MAX_LENGTH` characters.
        answer: the reference, LaTeX without a box, as in the `answer` column.

    Raises:
        ImportError: math-verify is not installed.
    """
    boxes = find_boxes(completion)
    if not boxes.contents:
        stated = "" if boxes.opened else completion[-MAX_LENGTH:]
        return Verdict(strict=False, lenient=_is_right(stated, answer))
    lenient = _is_right(f"\\boxed{{{boxes.contents[-1]}}}" if boxes.contents[-1].strip() else "", answer)
    return Verdict(strict=lenient and _has_form(boxes) and boxes.is_last, lenient=lenient)


def correctness(
    completions: list, answer: list[str], log_metric: Callable[[str, float], None] | None = None, **kwargs
) -> list[float]:
    """Reward 1.0 for a strictly correct completion (see `verify`), else 0.0.

    `log_metric` (TRL's) is told the share of answers that ran into a limit, crashed the worker, failed in the library
    or were too long to read.
    """
    before = JUDGE.counts.total() - JUDGE.counts["judged"]
    rewards = [float(verify(text_of(c), a).strict) for c, a in zip(completions, answer, strict=True)]
    if log_metric is not None:
        unjudged = JUDGE.counts.total() - JUDGE.counts["judged"] - before
        log_metric("math/unjudged", unjudged / max(1, len(rewards)))
    return rewards


def format_reward(completions: list, **kwargs) -> list[float]:
    r"""Reward 1.0 for a completion with exactly one \boxed{...} that is closed and not empty; it may be wrong."""
    return [float(_has_form(find_boxes(text_of(c)))) for c in completions]


REWARDS = {"correctness": correctness, "format": format_reward}


def _has_form(boxes: Boxes) -> bool:
    return boxes.opened == len(boxes.contents) == 1 and bool(boxes.contents[0].strip())


def _is_right(text: str, answer: str) -> bool:
    return bool(text.strip()) and JUDGE.is_equal(f"\\boxed{{{answer}}}", text)


# --- dataset --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A problem, what a model is to write for it, and the answer in that."""

    problem: str
    solution: str
    answer: str

    @property
    def key(self) -> str:
        """What splits are disjoint in: the problem without case and spacing."""
        return key_of(self.problem)


def to_problem(raw: object, where: str) -> Problem:
    """Read one record {"problem", "solution", "answer"}, one of the latter optional.

    Raises:
        ValueError: there is no text "problem", or neither an answer nor a solution with a box.
    """
    values = {key: raw.get(key) for key in ("problem", "solution", "answer")} if isinstance(raw, dict) else {}
    problem, solution, answer = (values.get(key) for key in ("problem", "solution", "answer"))
    texts = [value for value in (problem, solution, answer) if value is not None]
    if problem is None or len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f'{where}: expected an object with the text "problem" and the text "solution" or "answer"; {OTHER}'
        )
    if answer is None:
        assert solution is not None  # two of three are there
        boxes = find_boxes(solution)
        if not boxes.contents or not boxes.contents[-1].strip():
            raise ValueError(f'{where}: expected a "solution" with its answer in \\boxed{{...}}, or an "answer"')
        answer = boxes.contents[-1]
    return Problem(problem.strip(), solution or f"\\boxed{{{answer}}}", answer.strip())


def load_splits(
    *,
    data_files: list[str] | None,
    dataset_name: str | None,
    train_size: int | None,
    validation_size: int | None,
    test_size: int | None,
    seed: int,
    subset: str | None = None,
    max_term: int = 9,
) -> dict[str, datasets.Dataset]:
    """Load the disjoint splits train, validation and test with the text columns prompt, completion, answer and
    cluster.

    Args:
        data_files: jsonl files [train] or [train, test]; None with `dataset_name` None means embedded problems.
        dataset_name: a hub dataset with MATH's columns, such as "EleutherAI/hendrycks_math".
        train_size: rows of train; for real data a cap. None: `SIZES`, or all real rows.
        validation_size: rows of validation. None: `SIZES`, of real data at most a tenth.
        test_size: rows of test; for a real test source a cap. None: `SIZES`, or all rows of a real test source.
        seed: seed of the generator, or of the carving of real rows.
        subset: configuration of the hub dataset, such as "algebra".
        max_term: largest numerator and denominator of an embedded problem, 3 to 100.

    Raises:
        ImportError: math-verify is not installed.
        ValueError: a value is out of range, a size cannot be reached, or a record is malformed.
        FileNotFoundError: a data file does not exist.
    """
    check_installed()
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_sources(data_files, dataset_name, sizes)
    if type(max_term) is not int or not MIN_MAX_TERM <= max_term <= MAX_MAX_TERM:
        raise ValueError(
            f"task.options.max_term = {max_term!r}: must be a whole number in {MIN_MAX_TERM}..{MAX_MAX_TERM}"
        )
    if subset is not None and dataset_name is None:
        raise ValueError(f"task.options.subset = {subset!r}: only with task.dataset_name")
    if data_files is None and dataset_name is None:
        rows = {
            split: [_generated_row(p) for p in generate(split, sizes[split] or size, seed=seed, max_term=max_term)]
            for split, size in SIZES.items()
        }
    else:
        sources = (
            read_hub(dataset_name, to_problem, subset)
            if dataset_name is not None
            else [read_jsonl(path, to_problem, MATH_FILE) for path in data_files or ()]
        )
        test = sources[1] if len(sources) == 2 else None
        problems = carve(sources[0], test, lambda problem: problem.key, sizes, seed, "problems")
        rows = {split: [_to_row(problem, problem.key) for problem in found] for split, found in problems.items()}
    return {split: datasets.Dataset.from_list(found) for split, found in rows.items()}


def _generated_row(drawn: FractionProblem) -> dict[str, str]:
    answer = drawn.answer()
    return _to_row(Problem(drawn.problem(), f"\\boxed{{{answer}}}", answer), drawn.instance)


def _to_row(problem: Problem, cluster: str) -> dict[str, str]:
    return {
        "prompt": build_prompt(problem.problem),
        "completion": problem.solution,
        "answer": problem.answer,
        "cluster": cluster,
    }
