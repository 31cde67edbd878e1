"""Discrete diffusion for language models on torch and jaxtyping: one schedule, masks, bound, sampler, flow, oracle."""

from core.alpha_schedule import SCHEDULES, AlphaSchedule, assert_schedules_consistent, sync_masking_with_nelbo
from core.denoisers import Denoiser, EmbeddingDenoiser, ModelDenoiser
from core.flow import ODE_SOLVERS, FlowDraws, FlowEstimate, FlowGenerator, FlowMatchingLoss, ReflexFlow
from core.generator import DiffusionGenerator
from core.likelihoods import ESTIMATORS
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.sampling import SELECTIONS, SOLVERS
from core.scheduled_sampling import ScheduledSampling
from core.scoring import RATIOS, Draws, Likelihood, LikelihoodEstimate
from core.trajectory import Trajectory

__all__ = [
    "ESTIMATORS",
    "ODE_SOLVERS",
    "RATIOS",
    "SCHEDULES",
    "SELECTIONS",
    "SOLVERS",
    "AlphaSchedule",
    "Denoiser",
    "DiffusionGenerator",
    "DiffusionMaskingStrategy",
    "Draws",
    "EmbeddingDenoiser",
    "FlowDraws",
    "FlowEstimate",
    "FlowGenerator",
    "FlowMatchingLoss",
    "Likelihood",
    "LikelihoodEstimate",
    "ModelDenoiser",
    "ReflexFlow",
    "ScheduledSampling",
    "Trajectory",
    "TrajectoryNELBOLoss",
    "assert_schedules_consistent",
    "sync_masking_with_nelbo",
]
