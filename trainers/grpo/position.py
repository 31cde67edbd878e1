"""Where a GRPO run stands, and what comes after what: rollouts, micro-steps, updates.

A *micro-step* is one forward and backward; an *update* is made of several. A *rollout* is cut into micro-batches, one
for each micro-step, and the loss goes over all of them once in every *iteration* (the mu of GRPO).
"""

from dataclasses import dataclass

import torch

from trainers.distributed.randomness import generator_at
from trainers.settings.grpo import ImprovedDiffuGRPOConfig


@dataclass(frozen=True)
class Position:
    """All that a run's randomness may depend on, beside the row of the global batch.

    Attributes:
        seed: of the run.
        training: whether this is a step of training, and not of an evaluation.
        index: the micro-step of the run, or the batch of this evaluation, from 0.
        update: optimiser steps made so far.
    """

    seed: int
    training: bool
    index: int
    update: int

    @property
    def mode(self) -> str:
        """TRL's key of the metrics that belong here."""
        return "train" if self.training else "eval"

    def generator(self, purpose: str, *more: int, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator for one purpose at this position; ``more`` tells several of them apart."""
        return generator_at(self.seed, purpose, self.mode, self.index, *more, device=device)


@dataclass(frozen=True)
class Cadence:
    """How micro-steps make up updates and rollouts.

    Attributes:
        accumulated: micro-steps of an update.
        micro_batches: those of a rollout.
        iterations: how often the loss goes over a rollout.
    """

    accumulated: int
    micro_batches: int
    iterations: int

    @classmethod
    def of(cls, args: ImprovedDiffuGRPOConfig) -> "Cadence":
        """That of a run with these options."""
        assert args.steps_per_generation is not None  # TRL's options settle it
        return cls(args.gradient_accumulation_steps, args.steps_per_generation, args.num_iterations)

    @property
    def micro_steps(self) -> int:
        """From one rollout to the next."""
        return self.micro_batches * self.iterations

    @property
    def updates(self) -> int:
        """From one rollout to the next, at least 1."""
        return max(1, self.micro_steps // self.accumulated)

    def iterations_at(self, at: Position) -> int:
        """How many iterations a rollout made here is for: an evaluation goes over it once."""
        return self.iterations if at.training else 1

    def iteration(self, at: Position) -> int:
        """Which iteration this is, from 0."""
        return at.index // self.micro_batches % self.iterations if at.training else 0

    def is_on_policy(self, at: Position) -> bool:
        """Whether no update has come between the rollout and now."""
        return at.training and at.index % self.micro_steps < self.accumulated
