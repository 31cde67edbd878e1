"""What a run with scheduled sampling logs, for SFT and GRPO alike: keys "scheduled_sampling/...".

probability (of this step), rolled_out (share of the sequences), mean_offset (timesteps), accuracy (of self-revealed
tokens), forwards (extra evaluations, batched), seconds; in the step before a row of the log also exposure_bias (loss
at rolled-out minus loss at clean states of the same sequences, nats a sequence) and nelbo_clean. A flow has no tokens
of its own to be right about, and walks inside its loss: it logs no accuracy, no seconds, and its bias in nats a token.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import TrainerState

from core.denoisers import Denoiser
from core.masking_strategy import MaskingStrategy
from core.scheduled_sampling import RollOut, ScheduledSampling, exposure_bias
from core.scoring import Draws, Likelihood
from core.scoring.share import Share

SCHEDULED = "scheduled_sampling/"  # prefix of the keys

Batch = tuple[Tensor, Tensor, Tensor]  # prompts and their mask (B, P), canvases (B, L)


def rows_of(batch: Batch, rows: slice | Tensor) -> Batch:
    """Some rows of a batch."""
    prompt_ids, prompt_mask, ids = batch
    return prompt_ids[rows], prompt_mask[rows], ids[rows]


def log_follows(state: TrainerState, steps: int = 1) -> bool:
    """Whether a row of the log is written within so many steps, this one included: measurements that cost forwards
    wait for it."""
    every = max(state.logging_steps, 1)
    return (state.global_step + steps) // every > state.global_step // every


@dataclass(frozen=True)
class Walks:
    """Scheduled sampling of states that were drawn, and its metrics.

    Attributes:
        scheduled: when, how far and by which solver.
        masking: hid the tokens; holds the schedule.
        nelbo_loss: drew the states, and scores them where the exposure bias is measured.
        temperature: of the tokens that the model reveals.
        size: rows of a micro-batch; None: all at once.
    """

    scheduled: ScheduledSampling
    masking: MaskingStrategy
    nelbo_loss: Likelihood
    temperature: float
    size: int | None = None

    def walk(
        self,
        denoiser: Denoiser,
        batch: Batch,
        draws: Draws,
        step: int,
        noise: torch.Generator,
        share: Share,
    ) -> tuple[RollOut, float]:
        """Let the model walk to the states of ``draws``.

        Args:
            denoiser: the current weights.
            batch: prompts and canvases.
            draws: the states.
            step: optimiser step, for the ramp.
            noise: the only source of randomness, the same on every process.
            share: which part of the global batch this is.

        Returns:
            The states as the model left them, and the seconds that it took.
        """
        started = time.perf_counter()
        assert draws.timestep is not None
        rows, size = len(batch[2]), self.size or len(batch[2])
        timestep, most = share.gather(draws.timestep), self.nelbo_loss.schedule.max_timesteps
        departures = self.scheduled.depart(timestep, most, step, noise).rows(share.own(rows))
        parts = []
        for some in (slice(start, start + size) for start in range(0, rows, size)):
            states = *rows_of(batch, some), draws.rows(some)
            how = step, departures.rows(some), self.temperature
            parts.append(self.scheduled.roll_out(denoiser, self.masking, *states, *how))
        return RollOut.cat(parts), time.perf_counter() - started

    def metrics(
        self,
        rollout: RollOut,
        seconds: float,
        denoiser: Denoiser,
        batch: Batch,
        step: int,
        measure: bool,
    ) -> dict[str, float]:
        """The numbers of a walk, see `rollout_metrics`; arguments as in `walk`, which returned the first two."""
        common = (self.nelbo_loss, denoiser, batch, self.temperature, self.size)
        return rollout_metrics(rollout, self.scheduled, step, seconds, measure, *common)


def rollout_metrics(
    rollout: RollOut,
    scheduled: ScheduledSampling,
    step: int,
    seconds: float,
    measure: bool,
    nelbo_loss: Likelihood,
    denoiser: Denoiser,
    batch: Batch,
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
            exposure_bias(nelbo_loss, denoiser, *rows_of(batch, i), rollout.draws.rows(i), temperature)
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
