"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al. 2021, arXiv:2110.14168).

Nouns: a *problem* is a question with its reference completion; an *instance* is the tuple (template id, operands,
follow-up id, operand, ...) a generated problem was drawn as; a *verdict* says whether a completion states the right
number.

Convention: a completion ends with the line "#### <number>". Before it, a generated completion holds only GSM8K's
calculator annotations, "<<12+7=19>>\\n#### 19"; a real one holds the human solution. Three sources give the same
columns (prompt, completion, answer; cluster, which problems with equal template and numbers share): an embedded seeded
generator, local GSM8K jsonl files, and a dataset of the hub.
"""

import hashlib
import json
import operator
import random
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import datasets

NAME = "gsm8k"

TRAIN_SIZE = 8192  # embedded problems; a real training file is used whole
VALIDATION_SIZE = 512  # for a real training file at most a tenth of its rows
TEST_SIZE = 1024  # embedded problems, or rows carved out of a single file; a real test file is used whole

MAX_OPERATIONS = 3
MIN_MAX_NUMBER = 8  # below it no follow-up may exist for some intermediate result
MAX_MAX_NUMBER = 1000
MAX_FRUITLESS_DRAWS = 2000  # consecutive draws without a new question after which a held-out split counts as exhausted

SPLIT_SALT = 288  # chosen so that, at max_number = 20, every one-step template has instances in all three splits

ANSWER_MARK = "####"
# Linear time: each alternative is a plain run of digits. A minus right after a digit, letter or ")" is a subtraction.
NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z)])-)?\$?(?:(?<=\$)-)?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
)


def build_prompt(question: str) -> str:
    """Return the prompt of a question; the completion starts right after it."""
    return f"{question}\nAnswer:"


# --- verifier and rewards -------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether a completion is right, read with GSM8K's answer line required (strict) or not (lenient)."""

    strict: bool
    lenient: bool


def verify(completion: str, answer: str) -> Verdict:
    """Compare the number a completion states with the reference number, exactly and without evaluating any text.

    Args:
        completion: text of the model. Strict reads the number after the first "####", which must fill the rest of that
            line; thousands commas, "$" and a final period are tolerated ("#### $1,234.00." is 1234). Lenient reads the
            same number if there is one, otherwise the last number anywhere in the text.
        answer: the reference number, as in the `answer` column.

    Raises:
        ValueError: `answer` is not a number.
    """
    expected = _parse_number(answer)
    if expected is None:
        raise ValueError(f"answer = {answer!r}: expected a number such as '18'")
    strict = _strict_number(completion)
    lenient = _last_number(completion) if strict is None else strict
    return Verdict(strict=strict == expected, lenient=lenient == expected)


def correctness(completions: list, answer: list[str], **kwargs) -> list[float]:
    """Reward 1.0 for a strictly correct completion (see `verify`), else 0.0."""
    return [float(verify(_text(c), a).strict) for c, a in zip(completions, answer, strict=True)]


def format_reward(completions: list, **kwargs) -> list[float]:
    """Reward 1.0 for a completion with one "####" whose number ends the text, else 0.0; the number may be wrong."""
    return [float(_ends_with_answer_line(_text(c))) for c in completions]


REWARDS = {"correctness": correctness, "format": format_reward}


def _text(completion: str | list[dict[str, str]]) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _parse_number(text: str) -> Decimal | None:
    """Read a text that is one number and nothing else."""
    text = text.strip().removesuffix(".")
    return _to_decimal(text) if NUMBER.fullmatch(text) else None


def _to_decimal(number: str) -> Decimal:
    return Decimal(number.replace(",", "").replace("$", ""))


def _strict_number(text: str) -> Decimal | None:
    _, _, rest = text.partition(ANSWER_MARK)
    return _parse_number(rest.partition("\n")[0])


def _last_number(text: str) -> Decimal | None:
    numbers = NUMBER.findall(text)
    return _to_decimal(numbers[-1]) if numbers else None


def _ends_with_answer_line(text: str) -> bool:
    _, _, rest = text.partition(ANSWER_MARK)
    number, _, after = rest.partition("\n")
    return text.count(ANSWER_MARK) == 1 and _parse_number(number) is not None and not after.strip()


def _normalise(number: Decimal) -> str:
    """Write a number without commas or trailing zeros: 1,234.50 becomes 1234.5."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# --- embedded problems ----------------------------------------------------------------------------

NAMES = {
    "Tom": "he", "Sam": "he", "Ben": "he", "Leo": "he", "Max": "he", "Dan": "he",
    "Ann": "she", "Mia": "she", "Eva": "she", "Lily": "she", "Sara": "she", "Kate": "she",
}  # fmt: skip
POSSESSIVE = {"he": "his", "she": "her"}
THINGS = ("apple", "ball", "book", "card", "cup", "egg", "pen", "toy")  # all take a plain plural -s

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


@dataclass(frozen=True)
class Template:
    """A first step `a operation b`. `owner` is who has the result, empty where no follow-up can continue."""

    id: str
    operation: str
    owner: str
    body: str
    question: str


@dataclass(frozen=True)
class FollowUp:
    """A further step `result operation b` on what the owner has."""

    id: str
    operation: str
    body: str


# A keyword does not give the operation away: "more", "left", "each", "times", "in total" appear under several of them.
TEMPLATES = (
    Template("buys", "+", "{name}", "{name} has {a} {things} and buys {b} more at the shop.",
             "How many {things} does {name} have now?"),
    Template("more", "+", "{other}", "{name} has {a} {things}. {other} has {b} more {things} than {name}.",
             "How many {things} does {other} have?"),
    Template("fewer-inverse", "+", "{other}", "{name} has {a} {things}, which is {b} fewer than {other} has.",
             "How many {things} does {other} have?"),
    Template("big-and-small", "+", "{name}", "{name} has {a} big {things} and {b} small {things}.",
             "How many {things} does {name} have in total?"),
    Template("left-inverse", "+", "", "{name} gave away {a} {things} and has {b} left.",
             "How many {things} did {name} have at first?"),
    Template("day-and-night", "+", "", "{name} finds {a} {things} in the morning and {b} more at night.",
             "How many {things} does {he} find in total?"),
    Template("gives", "-", "{name}", "{name} has {a} {things} and gives {b} of them to {other}.",
             "How many {things} does {name} have left?"),
    Template("fewer", "-", "{other}", "{name} has {a} {things}. {other} has {b} fewer {things} than {name}.",
             "How many {things} does {other} have?"),
    Template("more-inverse", "-", "{other}", "{name} has {a} {things}, which is {b} more than {other} has.",
             "How many {things} does {other} have?"),
    Template("buys-inverse", "-", "", "{name} buys {b} {things} and now has {a} in total.",
             "How many {things} did {name} have at first?"),
    Template("difference", "-", "", "{name} has {a} {things} and {other} has {b} {things}.",
             "How many more {things} does {name} have than {other}?"),
    Template("the-rest", "-", "", "{name} has {a} {things}. Of these, {b} are small and the rest are big.",
             "How many big {things} does {name} have?"),
    Template("boxes", "*", "{name}", "{name} has {a} boxes with {b} {things} in each box.",
             "How many {things} does {name} have in total?"),
    Template("times", "*", "{other}", "{name} has {a} {things}. {other} has {b} times as many {things} as {name}.",
             "How many {things} does {other} have?"),
    Template("every-day", "*", "", "{name} buys {a} {things} every day for {b} days.",
             "How many {things} does {name} buy in total?"),
    Template("each-gives", "*", "", "Each of {a} friends gives {b} {things} to {name}.",
             "How many {things} does {name} get from them in total?"),
    Template("shares-inverse", "*", "", "{name} shares all {his} {things} among {a} friends. Each friend gets {b}.",
             "How many {things} did {name} have at first?"),
    Template("price", "*", "", "Each {thing} costs {a} dollars and {name} buys {b} {things}.",
             "How many dollars does {name} pay in total?"),
    Template("shares", "/", "", "{name} shares {a} {things} equally among {b} friends.",
             "How many {things} does each friend get?"),
    Template("times-inverse", "/", "{other}", "{name} has {a} {things}, which is {b} times as many as {other} has.",
             "How many {things} does {other} have?"),
    Template("groups", "/", "{name}", "{name} splits {a} {things} into {b} equal groups and keeps only one group.",
             "How many {things} does {name} keep?"),
    Template("boxes-inverse", "/", "", "{name} puts {a} {things} into boxes with {b} {things} in each box.",
             "How many boxes does {name} need?"),
    Template("price-inverse", "/", "", "{name} pays {a} dollars for {b} {things} with the same price.",
             "How many dollars does each {thing} cost?"),
    Template("last", "/", "", "{name} has {a} {things} and sells {b} of them every day.",
             "How many days will the {things} last?"),
)  # fmt: skip
FOLLOW_UPS = (
    FollowUp("then-buys", "+", "Then {owner} buys {b} more {things}."),
    FollowUp("then-finds", "+", "Then {owner} finds {b} {things} at home."),
    FollowUp("then-gives", "-", "Then {owner} gives away {b} {things}."),
    FollowUp("then-sells", "-", "Then {owner} sells {b} of the {things}."),
    FollowUp("then-times", "*", "Then {owner} gets more and has {b} times as many {things} as before."),
    FollowUp("later-times", "*", "Some days later {owner} has {b} times as many {things}."),
    FollowUp("then-groups", "/", "Then {owner} splits the {things} into {b} equal groups and keeps only one group."),
    FollowUp("then-boxes", "/", "Then {owner} puts the {things} into {b} equal boxes and sells all but one box."),
)
FINAL_QUESTION = "How many {things} does {owner} have now?"


@dataclass(frozen=True)
class Problem:
    """A generated problem.

    Args:
        template: its first step.
        operands: (a, b).
        follow_ups: (follow-up, operand) for each further step.
    """

    template: Template
    operands: tuple[int, int]
    follow_ups: tuple[tuple[FollowUp, int], ...]

    @property
    def instance(self) -> tuple[str | int, ...]:
        """What is left of the problem without names and objects; the unit that splits are disjoint in."""
        return (self.template.id, *self.operands, *(part for f, b in self.follow_ups for part in (f.id, b)))

    def steps(self) -> list[tuple[int, str, int, int]]:
        """Return (left, operation, right, result) of every step."""
        left, right = self.operands
        steps = [(left, self.template.operation, right, OPERATIONS[self.template.operation](left, right))]
        for follow_up, right in self.follow_ups:
            left = steps[-1][-1]
            steps.append((left, follow_up.operation, right, OPERATIONS[follow_up.operation](left, right)))
        return steps

    def completion(self) -> str:
        """Return the reference completion: an annotation per step, then the answer line."""
        steps = self.steps()
        annotations = "".join(f"<<{left}{sign}{right}={result}>>" for left, sign, right, result in steps)
        return f"{annotations}\n{ANSWER_MARK} {steps[-1][-1]}"

    def question(self, name: str, other: str, thing: str) -> str:
        """Word the problem for two people and an object."""
        he = NAMES[name]
        a, b = self.operands
        words = {"name": name, "other": other, "thing": thing, "things": thing + "s", "he": he, "his": POSSESSIVE[he]}
        body = self.template.body.format(a=a, b=b, **words)
        if not self.follow_ups:
            return f"{body} {self.template.question.format(**words)}"
        words["owner"] = self.template.owner.format(**words)
        further = [follow_up.body.format(b=b, **words) for follow_up, b in self.follow_ups]
        return " ".join([body, *further, FINAL_QUESTION.format(**words)])


def split_of(instance: tuple[str | int, ...]) -> str:
    """Assign an instance to train (80%), validation (10%) or test (10%), the same in every run and for every seed."""
    digest = hashlib.sha256("|".join(map(str, (SPLIT_SALT, *instance))).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


@lru_cache(maxsize=8192)
def _right_operands(operation: str, left: int, max_number: int) -> tuple[int, ...]:
    """Return every b for which `left operation b` is allowed.

    Operands and results are at least 2, so that plurals are right and any result can be continued; they stay below
    max_number for + and -, and the product (or dividend) is at most max_number for * and /.
    """
    if operation == "+":
        return tuple(range(2, max_number - left))
    if operation == "-":
        return tuple(range(2, left - 1)) if left < max_number else ()
    if operation == "*":
        return tuple(range(2, max_number // left + 1))
    return tuple(b for b in range(2, left // 2 + 1) if left % b == 0)


@lru_cache(maxsize=64)
def _left_weights(operation: str, max_number: int) -> tuple[range, list[int]]:
    """Return the left operands and how many pairs lie up to each of them: drawing with these is uniform over pairs."""
    lefts = range(2, max_number + 1)
    return lefts, list(accumulate(len(_right_operands(operation, left, max_number)) for left in lefts))


def draw_problem(rng: random.Random, num_operations: int, max_number: int) -> Problem:
    """Draw a problem of `num_operations` steps: template uniform, then operands uniform over the pairs it allows."""
    template = rng.choice(TEMPLATES if num_operations == 1 else [t for t in TEMPLATES if t.owner])
    lefts, cumulative = _left_weights(template.operation, max_number)
    left = rng.choices(lefts, cum_weights=cumulative)[0]
    right = rng.choice(_right_operands(template.operation, left, max_number))
    problem = Problem(template, (left, right), ())
    for _ in range(num_operations - 1):
        result = problem.steps()[-1][-1]
        follow_up = rng.choice([f for f in FOLLOW_UPS if _right_operands(f.operation, result, max_number)])
        right = rng.choice(_right_operands(follow_up.operation, result, max_number))
        problem = Problem(template, problem.operands, (*problem.follow_ups, (follow_up, right)))
    return problem


def generate(
    split: str, size: int, *, seed: int, min_operations: int, max_operations: int, max_number: int
) -> list[tuple[str, Problem]]:
    """Draw the (question, problem) pairs of one split; a question may repeat in train only.

    Raises:
        ValueError: a held-out split has fewer distinct questions than `size`.
    """
    rng = random.Random(f"{seed}-{split}")  # a stream per split: the size of one does not change another
    pairs: list[tuple[str, Problem]] = []
    seen: set[str] = set()
    fruitless = 0
    while len(pairs) < size:
        fruitless += 1
        if fruitless > MAX_FRUITLESS_DRAWS:
            raise ValueError(
                f"task.{split}_size = {size}: only about {len(pairs)} distinct questions exist with "
                f"{min_operations} to {max_operations} operations and max_number = {max_number}; ask for fewer"
            )
        problem = draw_problem(rng, rng.randint(min_operations, max_operations), max_number)
        if split_of(problem.instance) != split:
            continue
        name, other = rng.sample(list(NAMES), 2)
        question = problem.question(name, other, rng.choice(THINGS))
        if split == "train" or question not in seen:
            seen.add(question)
            pairs.append((question, problem))
            fruitless = 0
    return pairs


# --- real data ------------------------------------------------------------------------------------


def _to_row(raw: object, where: str) -> dict[str, str]:
    """Map one GSM8K record {"question", "answer"} to our columns."""
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), str) for key in ("question", "answer")):
        raise ValueError(f'{where}: expected an object with the text keys "question" and "answer"')
    completion = raw["answer"].strip()
    number = _strict_number(completion)
    if number is None or not _ends_with_answer_line(completion):
        raise ValueError(f'{where}: expected an "answer" that ends with the line "#### <number>"')
    prompt = build_prompt(raw["question"])
    return {"prompt": prompt, "completion": completion, "answer": _normalise(number), "cluster": prompt}


def _read_jsonl(path: str) -> list[dict[str, str]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"task.data_files: {path} is not a file; expected a GSM8K jsonl file")
    rows = []
    with open(path, "rb") as lines:  # bytes: a line that is not UTF-8 then fails with its line number
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                raw = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: expected one JSON object per line") from error
            rows.append(_to_row(raw, where))
    if not rows:
        raise ValueError(f"task.data_files: {path} has no rows; expected a GSM8K jsonl file")
    return rows


def _read_hub(dataset_name: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the rows of the train and the test split."""
    splits = datasets.load_dataset(dataset_name, "main")
    if not {"train", "test"} <= set(splits):
        raise ValueError(f"task.dataset_name = {dataset_name!r}: expected splits train and test, got {list(splits)}")
    train, test = (
        [_to_row(raw, f"{dataset_name} {split}, row {i}") for i, raw in enumerate(splits[split])]
        for split in ("train", "test")
    )
    return train, test


def _carve(
    source: list[dict[str, str]], test: list[dict[str, str]] | None, sizes: dict[str, int | None], seed: int
) -> dict[str, list[dict[str, str]]]:
    """Carve validation, and test where there is no test source, out of the training source."""
    # A question that repeats, or that the test source also has, would otherwise cross a split.
    taken = {row["prompt"] for row in test or ()}
    pool = list({row["prompt"]: row for row in source if row["prompt"] not in taken}.values())
    random.Random(seed).shuffle(pool)
    tenth = max(1, len(pool) // 10)
    num_validation = sizes["validation"] or min(VALIDATION_SIZE, tenth)
    num_test = (sizes["test"] or min(TEST_SIZE, tenth)) if test is None else 0
    held_out = num_validation + num_test
    if held_out >= len(pool):
        raise ValueError(
            f"task.validation_size = {num_validation} and {num_test} carved test rows leave nothing to train on: "
            f"the training source has {len(pool)} distinct questions"
        )
    return {
        "train": pool[held_out:][: sizes["train"]],
        "validation": pool[:num_validation],
        "test": pool[num_validation:held_out] if test is None else test[: sizes["test"]],
    }


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
) -> dict[str, datasets.Dataset]:
    """Load the disjoint splits train, validation and test with the text columns prompt, completion, answer and
    cluster.

    Args:
        data_files: GSM8K jsonl files [train] or [train, test]; None with `dataset_name` None means embedded problems.
        dataset_name: a hub dataset with GSM8K's columns, such as "openai/gsm8k" (its configuration "main").
        train_size: rows of train; for real data a cap. None: `TRAIN_SIZE` embedded problems, or all real rows.
        validation_size: rows of validation. None: `VALIDATION_SIZE`, of real data at most a tenth.
        test_size: rows of test; for a real test source a cap. None: `TEST_SIZE`, or all rows of a real test source.
        seed: seed of the generator, or of the carving of real rows.
        min_operations: fewest steps of an embedded problem, 1 to 3.
        max_operations: most steps of an embedded problem, 1 to 3.
        max_number: bound on every number of an embedded problem, see `_right_operands`.

    Raises:
        ValueError: a value is out of range, a size cannot be reached, or a record is malformed.
        FileNotFoundError: a data file does not exist.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    _check_arguments(data_files, dataset_name, sizes, min_operations, max_operations, max_number)
    if data_files is not None:
        sources = [_read_jsonl(path) for path in data_files]
        rows = _carve(sources[0], sources[1] if len(sources) == 2 else None, sizes, seed)
    elif dataset_name is not None:
        source, test = _read_hub(dataset_name)
        rows = _carve(source, test, sizes, seed)
    else:
        bounds = {"min_operations": min_operations, "max_operations": max_operations, "max_number": max_number}
        defaults = {"train": TRAIN_SIZE, "validation": VALIDATION_SIZE, "test": TEST_SIZE}
        rows = {
            split: _problem_rows(generate(split, sizes[split] or default, seed=seed, **bounds))
            for split, default in defaults.items()
        }
    return {split: datasets.Dataset.from_list(split_rows) for split, split_rows in rows.items()}


def _problem_rows(pairs: list[tuple[str, Problem]]) -> list[dict[str, str]]:
    return [
        {
            "prompt": build_prompt(question),
            "completion": p.completion(),
            "answer": str(p.steps()[-1][-1]),
            "cluster": "|".join(map(str, p.instance)),
        }
        for question, p in pairs
    ]


def _check_arguments(
    data_files: list[str] | None,
    dataset_name: str | None,
    sizes: dict[str, int | None],
    min_operations: int,
    max_operations: int,
    max_number: int,
) -> None:
    if data_files is not None and dataset_name is not None:
        raise ValueError(f"task.dataset_name = {dataset_name!r}: give either data_files or dataset_name, not both")
    if data_files is not None and len(data_files) not in (1, 2):
        raise ValueError(f"task.data_files = {data_files}: expected [train.jsonl] or [train.jsonl, test.jsonl]")
    for split, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"task.{split}_size = {size}: must be at least 1, or null for the default")
    if not 1 <= max_operations <= MAX_OPERATIONS:
        raise ValueError(f"task.max_operations = {max_operations}: must be in 1..{MAX_OPERATIONS}")
    if not 1 <= min_operations <= max_operations:
        raise ValueError(f"task.min_operations = {min_operations}: must be in 1..max_operations = {max_operations}")
    if not MIN_MAX_NUMBER <= max_number <= MAX_MAX_NUMBER:
        raise ValueError(f"task.max_number = {max_number}: must be in {MIN_MAX_NUMBER}..{MAX_MAX_NUMBER}")
