"""Generated instances: splits are disjoint, and nothing but the seed decides."""

import itertools
import os
import subprocess
import sys

import pytest
from arithmetic_bounds import bounds_of
from paths import REPO

from trainers.tasks.countdown import generator, solving
from trainers.tasks.countdown.instances import Instance

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize(("low", "high", "max_number"), [(2, 2, 20), (1, 3, 12)])
def test_splits_share_no_instance_whatever_the_seed_and_the_order_of_numbers(low, high, max_number):
    drawn = {
        split: {i for seed in (0, 1) for i in generator.generate(split, 150, **bounds_of(low, high, max_number, seed))}
        for split in SPLITS
    }
    assert all(generator.split_of(i) == split for split, instances in drawn.items() for i in instances)
    assert all(i.numbers == tuple(sorted(i.numbers)) for instances in drawn.values() for i in instances)
    for one, other in itertools.combinations(SPLITS, 2):
        assert not drawn[one] & drawn[other]


def test_a_tenth_of_all_instances_is_held_out_in_either_split():
    instances = [
        Instance(numbers, target)
        for numbers in itertools.combinations_with_replacement(range(1, 13), 3)
        for target in range(1, 21)
    ]
    shares = [generator.split_of(instance) for instance in instances]
    assert shares.count("validation") == pytest.approx(len(shares) / 10, rel=0.1)
    assert shares.count("test") == pytest.approx(len(shares) / 10, rel=0.1)


def test_generation_is_independent_of_the_hash_seed():
    code = (
        "from trainers.tasks.countdown import generator, solving\n"
        "drawn = generator.generate('test', 50, seed=3, min_operations=1, max_operations=3, max_number=20)\n"
        "print([(str(i), solving.solve(i)) for i in drawn])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(REPO)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = [(str(i), solving.solve(i)) for i in generator.generate("test", 50, **bounds_of(1, 3, seed=3))]
    assert other.stdout.strip() == str(here)
