"""wd1's weights do not depend on the process that a completion lies on."""

import pytest
import torch

from core.scoring.share import WHOLE, Share
from trainers.grpo.wd1 import wd1_weights

ADVANTAGES = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, 1.0, 1.0, 1.0])
KNOWN = torch.zeros(8, dtype=torch.bool)


def weights(unscored=KNOWN, psi=1.5):
    return wd1_weights(ADVANTAGES, unscored, 4, psi, WHOLE)


def test_weights_are_the_difference_of_two_softmaxes_and_sum_to_zero_in_a_group():
    scores = 1.5 * ADVANTAGES[:4]
    assert torch.allclose(weights()[:4], 4 * (scores.softmax(0) - (-scores).softmax(0)))
    assert weights().view(2, 4).sum(dim=1).abs().max() < 1e-5
    assert weights()[4:].tolist() == [0.0] * 4, "equal advantages teach nothing"


@pytest.mark.parametrize("processes", [2, 4])
def test_every_process_gets_its_rows_of_the_weights_of_the_global_batch(processes):
    size, unscored = 8 // processes, KNOWN.clone()
    unscored[2] = True
    parts = []
    for rank in range(processes):
        share = Share(rank, processes, lambda values: ADVANTAGES)
        parts.append(wd1_weights(ADVANTAGES[share.own(size)], unscored, 4, 1.5, share))
    assert torch.equal(torch.cat(parts), weights(unscored))


def test_a_completion_of_which_nothing_is_known_weighs_nothing():
    unscored = KNOWN.clone()
    unscored[0] = True
    found = weights(unscored)
    assert found[0] == 0 and torch.equal(found[1:], weights()[1:])
