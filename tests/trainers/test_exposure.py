"""Walks in micro-batches and on several processes are those of the whole batch."""

import pytest
import torch

from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.scheduled_sampling import RollOut, ScheduledSampling
from core.scoring.share import WHOLE, Share
from trainers.exposure import Walks


@pytest.fixture
def batch(make_policy):
    """A denoiser, eight rows of prompt and canvas, and states of them."""
    masking = DiffusionMaskingStrategy(0.0, 7)
    loss = TrajectoryNELBOLoss(max_timesteps=7, source="forward", num_draws=2)
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (8, 4 + 10), generator=noise)
    rows = ids[:, :4], torch.ones(8, 4, dtype=torch.int64), ids[:, 4:]
    draws = loss.draw(masking, 8, 10, 4, noise)
    scheduled = ScheduledSampling(max_step_offset=4, probability=0.7)
    return make_policy().denoiser(), rows, draws, (scheduled, masking, loss, 1.0)


def walk(batch, share=WHOLE, rows=slice(None), size=None):
    denoiser, tensors, draws, options = batch
    walks, noise = Walks(*options, size=size), torch.Generator().manual_seed(1)
    some = tuple(part[rows] for part in tensors)
    found, seconds = walks.walk(denoiser, some, draws.rows(rows), 0, noise, share)
    return found, walks.metrics(found, seconds, denoiser, some, 0, measure=True)


def assert_same(one, two):
    assert torch.equal(one.draws.shown, two.draws.shown) and torch.equal(one.offset, two.offset)
    assert torch.equal(one.draws.rolled_out, two.draws.rolled_out) and torch.equal(one.wrong, two.wrong)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_size_of_a_micro_batch_does_not_show(batch, size):
    (whole, metrics), (parts, others) = walk(batch), walk(batch, size=size)
    assert whole.wrong.any() and 0 < whole.draws.rolled_out.sum() < 8
    assert_same(whole, parts)
    for name in set(metrics) - {"scheduled_sampling/seconds", "scheduled_sampling/forwards"}:
        assert others[name] == pytest.approx(metrics[name], rel=1e-4), name


def test_each_process_walks_for_its_rows_of_the_global_batch(batch):
    timestep, parts = batch[2].timestep, []
    for rank in range(2):
        share = Share(rank, 2, lambda values: timestep)
        parts.append(walk(batch, share, share.own(4))[0])
    assert_same(walk(batch)[0], RollOut.cat(parts))
