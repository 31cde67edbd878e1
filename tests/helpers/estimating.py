"""Every estimator on a toy: built, with rollouts to score and states drawn on them."""

from toys import (
    TableDenoiser,
    prompts,
    rng,
    sampler,
)

from core.likelihoods.estimators import (
    ESTIMATORS,
)
from core.masking_strategy import DiffusionMaskingStrategy
from core.scoring.likelihood import Draws, Likelihood
from core.trajectory import Trajectory

LENGTH, STEPS = 4, 3
# what an estimator needs besides its own defaults
OPTIONS: dict[str, dict] = {"trajectory_nelbo": {"source": "rollout", "replay": "drawn"}}
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
