"""Countdown's embedded instances: a seeded generator."""

import hashlib
import random

from trainers.tasks.countdown.instances import Instance
from trainers.tasks.countdown.solving import leaves_of, whole_results
from trainers.tasks.generating import draw_split

MIN_MAX_NUMBER = 2
MAX_MAX_NUMBER = 1000
MAX_TARGET_RATIO = 5  # target / max_number of an embedded problem; without a bound, products take most of the targets

SALT = "countdown"  # of the split: never change it


def split_of(instance: Instance) -> str:
    """Assign an instance to train (80%), validation (10%) or test (10%), the same in every run and for every seed."""
    digest = hashlib.sha256(f"{SALT}|{instance}".encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def draw_instance(rng: random.Random, num_operations: int, max_number: int) -> Instance:
    """Draw numbers uniformly from 1 to `max_number`, then join two random terms by a random operation until one is
    left: the target. Results in between are positive and whole."""
    numbers = tuple(sorted(rng.randint(1, max_number) for _ in range(num_operations + 1)))
    terms = leaves_of(numbers)
    while len(terms) > 1:
        rng.shuffle(terms)
        terms.append(rng.choice(whole_results(terms.pop(), terms.pop())))
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
