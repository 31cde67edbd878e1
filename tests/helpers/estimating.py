"""Every estimator on a toy: built, with rollouts to score and states drawn on them."""

import torch
from torch import Tensor
from toys import PROMPT, TableDenoiser, assert_mean, prompts, rng, sampler

from core.likelihoods import ESTIMATORS
from core.masking_strategy import DiffusionMaskingStrategy
from core.oracles.exact import any_order_average, conditional_logps
from core.scoring import Draws, Likelihood
from core.trajectory import Trajectory

LENGTH, STEPS = 4, 3
# what an estimator needs besides its own defaults
OPTIONS: dict[str, dict] = {"trajectory_nelbo": {"source": "rollout", "replay": "drawn"}}
IDS = torch.tensor([2, 0, 1, 1])  # a completion with all of the vocabulary in it
SELECTIONS = {"selection_replay": "low_confidence"}


def build(name: str, **options) -> tuple[Likelihood, DiffusionMaskingStrategy]:
    likelihood = ESTIMATORS[name](max_timesteps=STEPS, **(OPTIONS.get(name, {}) | options))
    masking = DiffusionMaskingStrategy(0.0, STEPS)
    masking.schedule = likelihood.schedule
    return likelihood, masking


def rollouts(rows: int, selection: str = "top1", seed: int = 0, **options) -> tuple[TableDenoiser, Trajectory]:
    denoiser = TableDenoiser()
    generator = sampler(denoiser, LENGTH, steps=STEPS, selection=selection, **options)
    return denoiser, generator.generate(*prompts(rows), rng(seed))


def draw(likelihood: Likelihood, masking, trajectory: Trajectory, seed: int = 1, **options) -> Draws:
    return likelihood.draw(masking, *trajectory.ids.shape, 2, rng(seed), trajectory=trajectory, **options)


def text(ids: Tensor) -> Trajectory:
    """A text without a history: enough for estimators of fresh masks."""
    rows = torch.zeros(len(ids), dtype=torch.int64)
    return Trajectory(
        ids, torch.zeros_like(ids), torch.zeros(ids.shape), rows + ids.size(1), rows > 0, rows, True, None
    )


def sampled_bounds(name: str, ids: Tensor, rows: int = 20_000, **options) -> Tensor:
    """As many independent estimates of -log p(ids), from fresh masks."""
    likelihood, masking = build(name, **options)
    trajectory = text(ids.expand(rows, -1))
    draws = draw(likelihood, masking, trajectory, 7)
    return likelihood.score(TableDenoiser(), *prompts(rows), trajectory.ids, draws).sequence_bound


def assert_estimates_the_any_order_bound(name: str, **options) -> None:
    table = conditional_logps(TableDenoiser(), PROMPT, IDS)
    bounds = sampled_bounds(name, IDS, **options)
    assert_mean(bounds, any_order_average(table).item())
    assert bounds.std() / bounds.mean() < 2, "sharp enough to see a wrong weight"


def assert_every_number_of_tokens_is_hidden_equally_often(name: str) -> Tensor:
    """Checked on pairs of states, (5000, 2, L), which are returned."""
    likelihood, masking = build(name, num_draws=2)
    _, trajectory = rollouts(5000)
    hidden = draw(likelihood, masking, trajectory).hidden
    counts = torch.bincount(hidden.sum(dim=2).flatten(), minlength=LENGTH + 1)
    assert counts[0] == 0 and (counts[1:] / 10_000 - 0.25).abs().max() < 0.02
    assert (hidden.float().mean(dim=(0, 1)) - 0.625).abs().max() < 0.02
    return hidden
