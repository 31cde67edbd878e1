r"""Word problems drawn from templates, with one to three steps: the seeded generator of the task gsm8k.

Nouns: a *problem* is a template with its operands and follow-ups; its *instance* is the tuple (template id, operands,
follow-up id, operand, ...), which is what splits are disjoint in.

Convention: a completion holds only GSM8K's calculator annotations and the answer line, "<<12+7=19>>\n#### 19".
"""

import hashlib
import operator
import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from trainers.tasks.word_problems.numbers import ANSWER_MARK
from trainers.tasks.word_problems.templates import (
    FINAL_QUESTION,
    FOLLOW_UPS,
    NAMES,
    POSSESSIVE,
    TEMPLATES,
    THINGS,
    FollowUp,
    Template,
)

MAX_OPERATIONS = 3
MIN_MAX_NUMBER = 8  # below it no follow-up may exist for some intermediate result
MAX_MAX_NUMBER = 1000
MAX_FRUITLESS_DRAWS = 2000  # consecutive draws without a new question after which a held-out split counts as exhausted

SPLIT_SALT = 288  # chosen so that, at max_number = 20, every one-step template has instances in all three splits

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


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
