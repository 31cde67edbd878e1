"""Merged steps of the rollout: which tokens are scored where, and the exact replay that is left unmerged."""

import pytest
import torch
from estimating import LENGTH, STEPS, build, draw
from toys import TableDenoiser, prompts, rng, sampler

from core.likelihoods import MergedReplay
from core.masking_strategy import DiffusionMaskingStrategy
from core.trajectory import Trajectory


@pytest.mark.parametrize("options", [{"num_draws": 8}, {"shrinkage": 1}], ids=str)
@pytest.mark.parametrize("sampling", [{}, {"selection": "random"}, {"temperature": 0.7}, {"block_length": 2}], ids=str)
def test_unmerged_replay_is_the_product_of_the_recorded_commits(options, sampling):
    likelihood, masking = build("rollout", **options)
    steps = {"steps": 4} if "block_length" in sampling else {"steps": STEPS}
    denoiser = TableDenoiser()
    trajectory = sampler(denoiser, LENGTH, **(steps | sampling)).generate(*prompts(40), rng())
    draws = draw(likelihood, masking, trajectory)
    found = likelihood.score(denoiser, *prompts(40), trajectory.ids, draws, sampling.get("temperature", 1.0))
    assert trajectory.exact and trajectory.commit_logps.sum() < -10
    assert torch.allclose(found.per_token_logps, trajectory.commit_logps, atol=1e-5)
    assert torch.allclose(found.sequence_bound, -trajectory.commit_logps.sum(dim=1), atol=1e-4)


def test_segments_merge_neighbouring_steps():
    # six tokens, each revealed in a step of its own: positions 0, 1, ... 5
    ids = torch.zeros(1, 6, dtype=torch.int64)
    trajectory = Trajectory(
        ids, torch.arange(6)[None], torch.zeros(1, 6), torch.tensor([6]), torch.tensor([False]), ids[:, 0], True, None
    )
    masking = DiffusionMaskingStrategy(0.0, 6)
    merged = {
        "3 segments": MergedReplay(6, num_draws=3),
        "of 2 steps": MergedReplay(6, shrinkage=2),
        "of 4 steps": MergedReplay(6, shrinkage=4),
    }
    states = {key: draw(likelihood, masking, trajectory) for key, likelihood in merged.items()}
    pairs = [
        [True, True, False, False, False, False],
        [False, False, True, True, False, False],
        [False] * 4 + [True] * 2,
    ]
    for key in ("3 segments", "of 2 steps"):
        assert states[key].scored[0].tolist() == pairs
        assert states[key].hidden[0].tolist() == [[i >= 2 * k for i in range(6)] for k in range(3)]
    assert states["of 4 steps"].scored[0].sum(dim=1).tolist() == [4, 2]
    assert all(bool((found.weight == 1).all()) for found in states.values())
