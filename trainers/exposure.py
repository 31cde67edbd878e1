"""What a run with scheduled sampling logs, for SFT and GRPO alike: keys "scheduled_sampling/...".

probability (of this step), rolled_out (share of the sequences), mean_offset (timesteps), accuracy (of self-revealed
tokens), forwards (extra evaluations, batched), seconds; in the step before a row of the log also exposure_bias (loss
at rolled-out minus loss at clean states of the same sequences, nats a sequence) and nelbo_clean. A flow has no tokens
of its own to be right about, and walks inside its loss: it logs no accuracy, no seconds, and its bias in nats a token.
"""

import torch
from torch import Tensor
from transformers import TrainerState

from core.denoisers.denoiser import Denoiser
from core.nelbo import TrajectoryNELBOLoss
from core.scheduled_sampling import RollOut, ScheduledSampling, exposure_bias

SCHEDULED = "scheduled_sampling/"  # prefix of the keys


def log_follows(state: TrainerState, steps: int = 1) -> bool:
    """Whether a row of the log is written within so many steps, this one included: measurements that cost forwards
    wait for it."""
    every = max(state.logging_steps, 1)
    return (state.global_step + steps) // every > state.global_step // every


def rollout_metrics(
    rollout: RollOut,
    scheduled: ScheduledSampling,
    step: int,
    seconds: float,
    measure: bool,
    nelbo_loss: TrajectoryNELBOLoss,
    denoiser: Denoiser,
    batch: tuple[Tensor, Tensor, Tensor],
    temperature: float,
    size: int | None = None,
) -> dict[str, float]:
    """The numbers of one rollout of prompts (B, P), their mask and canvases (B, L).

    ``measure`` costs two forwards for every ``size`` rows (None: all at once).
    """
    metrics = rollout.metrics() | {"probability": scheduled.probability_at(step), "seconds": seconds}
    moved = rollout.draws.rolled_out
    if measure and moved is not None and bool(moved.any()):
        losses = [
            exposure_bias(nelbo_loss, denoiser, *(t[i] for t in batch), rollout.draws.rows(i), temperature)
            for i in moved.nonzero().squeeze(1).split(size or len(moved))
        ]
        rolled, clean = (torch.cat(part) for part in zip(*losses, strict=True))
        metrics |= {"exposure_bias": (rolled - clean).mean().item(), "nelbo_clean": clean.mean().item()}
    return {SCHEDULED + name: value for name, value in metrics.items()}


def bounds_apart(bound: Tensor, rolled_out: Tensor) -> dict[str, float]:
    """Mean of the bound (B,) over the sequences left alone, and of the loss of those moved: that is no bound."""
    metrics = {}
    if not bool(rolled_out.all()):
        metrics["nelbo"] = bound[~rolled_out].mean().item()
    if bool(rolled_out.any()):
        metrics[SCHEDULED + "nelbo_rolled_out"] = bound[rolled_out].mean().item()
    return metrics
