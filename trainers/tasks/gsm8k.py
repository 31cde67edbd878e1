"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al. 2021, arXiv:2110.14168).

Nouns: a *problem* is a question with its reference completion; an *instance* is the tuple (template id, operands,
follow-up id, operand, ...) a generated problem was drawn as.

Convention: a completion ends with the line "#### <number>". Before it, a generated completion holds only GSM8K's
calculator annotations, "<<12+7=19>>\\n#### 19"; a real one holds the human solution, or what `TrainingData` asks for.
Three sources give the same columns (prompt, completion, answer; cluster, which problems with equal template and
numbers share): an embedded seeded generator, local GSM8K jsonl files, and a dataset of the hub.
"""

import hashlib
import operator
import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import datasets

from trainers.tasks.augmentation import UNCHANGED, TrainingData, build_splits, read_extra
from trainers.tasks.numbers import ANSWER_MARK
from trainers.tasks.numbers import REWARDS as REWARDS  # the verifier and the rewards are known by this module's name
from trainers.tasks.numbers import Verdict as Verdict
from trainers.tasks.numbers import correctness as correctness
from trainers.tasks.numbers import format_reward as format_reward
from trainers.tasks.numbers import verify as verify
from trainers.tasks.sources import TEST_SIZE, VALIDATION_SIZE, carve, check_generator, check_sources
from trainers.tasks.word_problems import WordProblem, build_prompt, carve_clusters, clustered, read_gsm8k, to_gsm8k

NAME = "gsm8k"

TRAIN_SIZE = 8192  # embedded problems; a real training file is used whole

MAX_OPERATIONS = 3
MIN_MAX_NUMBER = 8  # below it no follow-up may exist for some intermediate result
MAX_MAX_NUMBER = 1000
MAX_FRUITLESS_DRAWS = 2000  # consecutive draws without a new question after which a held-out split counts as exhausted

SPLIT_SALT = 288  # chosen so that, at max_number = 20, every one-step template has instances in all three splits

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


def _read_hub(dataset_name: str) -> list[list[WordProblem]]:
    """Return the problems of the train and the test split."""
    splits = datasets.load_dataset(dataset_name, "main")
    if not {"train", "test"} <= set(splits):
        raise ValueError(f"task.dataset_name = {dataset_name!r}: expected splits train and test, got {list(splits)}")
    return [
        [to_gsm8k(raw, f"{dataset_name} {split}, row {i}") for i, raw in enumerate(splits[split])]
        for split in ("train", "test")
    ]


def _read_extra(paths: tuple[str, ...]) -> list[WordProblem]:
    """Further training problems; of SVAMP those that the task svamp trains on, so that its test split stays unseen."""
    gsm8k, svamp = read_extra(paths)
    if svamp:
        splits, _ = carve_clusters(clustered(svamp)[0], None, dict.fromkeys(("train", "validation", "test")))
        gsm8k += splits["train"]
    return gsm8k


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
        data_files: GSM8K jsonl files [train] or [train, test]; None with `dataset_name` None means embedded problems.
        dataset_name: a hub dataset with GSM8K's columns, such as "openai/gsm8k" (its configuration "main").
        train_size: rows of train; for real data a cap. None: `TRAIN_SIZE` embedded problems, or all real rows.
        validation_size: rows of validation. None: `VALIDATION_SIZE`, of real data at most a tenth.
        test_size: rows of test; for a real test source a cap. None: `TEST_SIZE`, or all rows of a real test source.
        seed: seed of the generator, or of the carving of real rows.
        min_operations: fewest steps of an embedded problem, 1 to 3.
        max_operations: most steps of an embedded problem, 1 to 3.
        max_number: bound on every number of an embedded problem, see `_right_operands`.
        training_data: styles, copies and further files of the training split; needs real data. `train_size` is without
            what they add.

    Raises:
        ValueError: a value is out of range, a size cannot be reached, or a record is malformed.
        FileNotFoundError: a data file does not exist.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_sources(data_files, dataset_name, sizes)
    numbers = range(MIN_MAX_NUMBER, MAX_MAX_NUMBER + 1)
    check_generator(min_operations, max_operations, max_number, most_operations=MAX_OPERATIONS, numbers=numbers)
    if data_files is None and dataset_name is None:
        training_data.refuse(
            "needs problems of task.data_files or task.dataset_name; generated ones have their own size"
        )
        bounds = {"min_operations": min_operations, "max_operations": max_operations, "max_number": max_number}
        defaults = {"train": TRAIN_SIZE, "validation": VALIDATION_SIZE, "test": TEST_SIZE}
        return {
            split: datasets.Dataset.from_list(
                _problem_rows(generate(split, sizes[split] or default, seed=seed, **bounds))
            )
            for split, default in defaults.items()
        }
    sources = _read_hub(dataset_name) if dataset_name is not None else [read_gsm8k(path) for path in data_files or ()]
    test = sources[1] if len(sources) == 2 else None
    problems = carve(sources[0], test, lambda problem: problem.question, sizes, seed, "questions")
    return build_splits(problems, _read_extra(training_data.extra_files), training_data, seed)


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
