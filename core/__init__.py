"""Discrete diffusion for language models, torch only: one schedule, masks, bound, sampler, oracle."""

from core.alpha_schedule import SCHEDULES, AlphaSchedule, assert_schedules_consistent, sync_masking_with_nelbo
from core.denoiser import Denoiser, ModelDenoiser
from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import Draws, NELBOEstimate, TrajectoryNELBOLoss
from core.selection import SELECTIONS
from core.trajectory import Trajectory

__all__ = [
    "SCHEDULES",
    "SELECTIONS",
    "AlphaSchedule",
    "Denoiser",
    "DiffusionGenerator",
    "DiffusionMaskingStrategy",
    "Draws",
    "ModelDenoiser",
    "NELBOEstimate",
    "Trajectory",
    "TrajectoryNELBOLoss",
    "assert_schedules_consistent",
    "sync_masking_with_nelbo",
]
