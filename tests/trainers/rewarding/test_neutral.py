"""What is put in the place of a failed reward, as a table; what TRL makes of it is in test_tolerant.py."""

import math

import pytest
import torch

from trainers.rewarding.neutral import neutral

NAN = math.nan


@pytest.mark.parametrize("size", [2, 7, 8, 10])
def test_equal_rewards_stay_exactly_equal(size):
    rewards = torch.full((2 * size, 2), 0.3)
    failed = torch.zeros(2 * size, 2, dtype=torch.bool)
    failed[0, 0] = failed[size:, 0] = True
    filled = neutral(rewards.masked_fill(failed, NAN), failed, size)
    assert torch.equal(filled, rewards)


def test_what_did_not_fail_is_not_touched():
    rewards = torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, 1.0], [NAN, 2.0]])
    assert torch.equal(neutral(rewards, torch.zeros(4, 2, dtype=torch.bool), 2).nan_to_num(9), rewards.nan_to_num(9))
