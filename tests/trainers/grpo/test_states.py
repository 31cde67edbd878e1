"""States that are placed in TRL's batch come out again beside their completions, after its shuffle and split."""

import pytest
import torch
from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict

from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.scoring import Draws
from trainers.grpo.states import CANVAS, COMMITS, OLD, REFERENCE, StoredStates, pad_columns, pick

B, ITERATIONS, L, C, P = 8, 2, 6, 4, 3


@pytest.fixture
def stored():
    """Every row's canvas begins with its number."""
    loss = TrajectoryNELBOLoss(max_timesteps=5, source="forward", num_draws=3)
    masking = DiffusionMaskingStrategy(0.5, 5)
    noise = torch.Generator().manual_seed(0)
    draws = [loss.draw(masking, B, L, P, noise) for _ in range(ITERATIONS)]
    canvas = torch.randint(10, 90, (B, L), generator=noise)
    canvas[:, 0] = torch.arange(B)
    return StoredStates(canvas, torch.rand(B, L, generator=noise).log(), Draws.stack(draws))


@pytest.fixture
def batch(stored):
    """TRL's, with log-probs that name their row, iteration and sign."""
    row, iteration, sign = torch.arange(B), torch.arange(ITERATIONS), torch.arange(2)
    logps = 100.0 * row[:, None, None] + 10 * iteration[:, None] + sign
    logps = logps.unsqueeze(3).expand(-1, -1, -1, C)
    mask = torch.ones(B, C, dtype=torch.int64)
    mask[1, 2:] = 0
    own = {"completion_ids": stored.canvas_ids[:, :C], "completion_mask": mask, OLD: logps, REFERENCE: logps + 0.5}
    return own | {"advantages": torch.tensor([1.0, -1.0] * 4)} | stored.to_dict()


@pytest.mark.parametrize("iteration", range(ITERATIONS))
def test_what_was_placed_is_picked_again_after_trls_shuffle_and_split(batch, stored, iteration):
    seen = []
    for part in split_tensor_dict(shuffle_sequence_dict(batch), 4):
        inputs, picked = pick(part, iteration)
        for at, row in enumerate(picked.canvas_ids[:, 0].tolist()):
            seen.append(row)
            assert torch.equal(picked.canvas_ids[at], stored.canvas_ids[row])
            assert torch.equal(picked.commit_logps[at], stored.commit_logps[row])
            own = stored.iterations[iteration].rows(torch.tensor([row]))
            found = picked.draws.rows(torch.tensor([at]))
            for name, value in vars(own).items():
                assert (value is None or name == "u") or torch.equal(getattr(found, name), value), name
            expected = 100.0 * row + 10 * iteration + (picked.advantages[at] < 0)
            assert inputs[OLD][at].tolist() == picked.old_logps[at].tolist() == [expected] * C
            assert inputs[REFERENCE][at].tolist() == [expected + 0.5] * C
    assert sorted(seen) == list(range(B)) != seen


def test_a_batch_without_old_log_probs_has_none_to_compare_with(batch):
    del batch[OLD], batch[REFERENCE]
    inputs, picked = pick(batch, 0)
    assert picked.old_logps is None and not {OLD, REFERENCE} & inputs.keys()


def test_picking_leaves_the_batch_for_the_next_iteration(batch):
    before = dict(batch)
    pick(batch, 1)
    assert batch.keys() == before.keys() and all(batch[key] is before[key] for key in before)


def test_the_text_ends_where_trls_completion_ends(batch):
    _, picked = pick(batch, 0)
    assert picked.text.shape == (B, L) and not picked.text[:, C:].any()
    assert picked.text[1].tolist() == [True, True] + [False] * 4
    assert torch.equal(pad_columns(batch["completion_mask"].bool(), L), picked.text)


def test_every_stored_tensor_has_the_batch_dimension_first(stored):
    placed = stored.to_dict()
    assert {CANVAS, COMMITS} < placed.keys() and len(placed) > 6
    assert all(value.size(0) == B for value in placed.values())
