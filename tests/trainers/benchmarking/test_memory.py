"""Peak memory is the largest sum of what was held at once, not the last one and not the total."""

import pytest
import torch

from trainers.benchmarking.memory import highest_sum, peak_memory

MIB = 2**20


def floats(mebibytes):
    return torch.empty(mebibytes * MIB // 4)


def test_peak_is_what_was_held_at_once():
    def work():
        first, second = floats(4), floats(8)
        del first
        third = floats(2)
        del second
        return third, floats(3)

    assert peak_memory(work) == 12 * MIB


def test_what_was_there_before_does_not_count():
    held = floats(16)
    assert peak_memory(lambda: held[: MIB // 4].clone()) == MIB


def test_activations_kept_for_backward_count():
    weight = torch.zeros(512, 512, requires_grad=True)  # 1 MiB
    held = peak_memory(lambda: weight.exp().exp().exp().sum())
    freed = peak_memory(lambda: weight.detach().exp().exp().exp().sum())
    assert held >= 3 * MIB > freed


@pytest.mark.parametrize(
    ("changes", "expected"),
    [([], 0), ([(0, -5), (1, 3)], 0), ([(2, -4), (1, 4), (3, 3)], 4), ([(0, 1), (1, 2), (2, 3)], 6)],
)
def test_changes_are_summed_in_the_order_of_time(changes, expected):
    assert highest_sum(changes) == expected
