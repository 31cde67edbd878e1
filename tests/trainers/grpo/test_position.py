"""A position decides all randomness, and the cadence what comes next."""

from dataclasses import replace

import pytest
import torch

from trainers.distributed.randomness import generator_at
from trainers.grpo.position import Cadence, Position

HERE = Position(seed=3, training=True, index=5, update=2)
CADENCE = Cadence(accumulated=2, micro_batches=4, iterations=2)


def number(generator):
    return torch.randint(2**60, (), generator=generator).item()


def test_randomness_is_that_of_seed_purpose_mode_and_index_in_this_order():
    """Checkpoints of older runs go on with the same numbers only if the order stays."""
    assert number(HERE.generator("states", 1)) == number(generator_at(3, "states", "train", 5, 1))
    evaluated = replace(HERE, training=False, index=0)
    assert number(evaluated.generator("rollout")) == number(generator_at(3, "rollout", "eval", 0))
    assert number(replace(HERE, update=9).generator("states")) == number(HERE.generator("states"))


@pytest.mark.parametrize("change", [{"seed": 4}, {"training": False}, {"index": 6}])
def test_another_position_has_other_numbers(change):
    first, second = (position.generator("states") for position in (HERE, replace(HERE, **change)))
    assert number(first) != number(second)


def test_an_iteration_goes_over_all_micro_batches_before_the_next_and_an_evaluation_has_one():
    found = [CADENCE.iteration(replace(HERE, index=index)) for index in range(16)]
    assert found == ([0] * 4 + [1] * 4) * 2
    evaluated = replace(HERE, training=False)
    assert (CADENCE.iteration(evaluated), CADENCE.iterations_at(evaluated), CADENCE.iterations_at(HERE)) == (0, 1, 2)


def test_only_the_first_update_after_a_rollout_is_on_policy():
    assert [CADENCE.is_on_policy(replace(HERE, index=index)) for index in range(10)] == [True] * 2 + [False] * 6 + [
        True
    ] * 2
    assert not CADENCE.is_on_policy(replace(HERE, training=False, index=0))


@pytest.mark.parametrize(("accumulated", "updates"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_updates_of_a_rollout_are_at_least_one(accumulated, updates):
    assert Cadence(accumulated, micro_batches=4, iterations=2).updates == updates


def test_cadence_is_read_from_the_options(grpo_args):
    args = grpo_args(
        per_device_train_batch_size=4, steps_per_generation=4, gradient_accumulation_steps=2, num_iterations=2
    )
    assert Cadence.of(args) == CADENCE
