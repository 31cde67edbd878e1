"""Discrete diffusion for language models, torch only: one schedule, masks, bound, sampler, flow, oracle."""

from core.alpha_schedule import SCHEDULES, AlphaSchedule, assert_schedules_consistent, sync_masking_with_nelbo
from core.denoiser import Denoiser, EmbeddingDenoiser, ModelDenoiser
from core.estimators import ESTIMATORS
from core.flow_matching import ODE_SOLVERS, FlowDraws, FlowEstimate, FlowGenerator, FlowMatchingLoss
from core.generator import DiffusionGenerator
from core.likelihood import RATIOS, Draws, Likelihood, LikelihoodEstimate
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.reflexflow import ReflexFlow
from core.scheduled_sampling import ScheduledSampling
from core.selection import SELECTIONS
from core.solvers import SOLVERS
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
