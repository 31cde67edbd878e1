"""What one SFT micro-step minimises, in general: a batch in, a loss in nats per canvas token and metrics out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from core.denoisers import EmbeddingDenoiser
from core.masking_strategy import MaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.scheduled_sampling import ScheduledSampling
from core.scoring.share import Share
from trainers.distributed.randomness import generator_at
from trainers.models.policy import Policy
from trainers.settings.objects import build_reflexflow, build_scheduled_sampling
from trainers.settings.options import only_with
from trainers.settings.sft import DiffusionSFTConfig

Objected = tuple[Tensor, dict[str, float]]  # loss and metrics


@dataclass(frozen=True)
class MicroStep:
    """Where a batch stands in a run, and the two ways to call the model.

    Attributes:
        position: where in the run this is: all that randomness may depend on, beside the row of the global batch.
        share: which of these rows there are here.
        step: optimiser step; None in evaluation, where states are never rolled out.
        measure: whether to spend two forwards on the exposure bias.
        denoiser: the model in training, gradients included.
        walker: the same weights beneath their wrappers, for rollouts whose number of forwards differs by rank.
    """

    position: tuple[int | str, ...]
    share: Share
    step: int | None
    measure: bool
    denoiser: EmbeddingDenoiser
    walker: EmbeddingDenoiser

    def generator(self, *more: int | str, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator for this micro-step; ``more`` tells several of them apart."""
        return generator_at(*self.position, *more, device=device)


class Objective(ABC):
    """Batch in, loss and metrics out."""

    def __init__(
        self, args: DiffusionSFTConfig, nelbo_loss: TrajectoryNELBOLoss, masking: MaskingStrategy, policy: Policy
    ):
        self.args, self.nelbo_loss, self.masking, self.policy = args, nelbo_loss, masking, policy
        self.scheduled: ScheduledSampling = build_scheduled_sampling(args)
        self.reflexflow = build_reflexflow(args)
        alone = args.prediction_type == "masked" and not self.scheduled.active
        reason = "masked text and no scheduled sampling: other losses are not scored in groups"
        only_with(args, ["states_per_forward", "memory_budget_gib"], alone, reason)

    @abstractmethod
    def __call__(self, at: MicroStep, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor) -> Objected:
        """Prompts (B, P) with their mask, and canvases (B, L)."""
