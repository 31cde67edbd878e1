"""The options of scheduled sampling: training states that the model reached by itself.

A denoiser is trained on perfectly noised text and generates from its own mistakes. With scheduled sampling the current
weights carry a sample from timestep t + k to t, and the result is the training input. The idea is Bengio et al. 2015
(1506.03099), the option names are SimpleTuner's. What the options do is in `core/scheduled_sampling.py`.
"""

import math
from dataclasses import dataclass

from core.sampling import SOLVERS
from core.scheduled_sampling import RAMP_SHAPES, STRATEGIES
from trainers.settings.options import only_with, option, require

ACTIVE = "scheduled sampling on (max_step_offset > 0, and probability > 0 or ramp_steps > 0)"


@dataclass
class ScheduledSamplingArguments:
    """When a training state is rolled out, how far, by which solver, and what the loss adds there."""

    scheduled_sampling_max_step_offset: int = option(
        "scheduled_sampling",
        0,
        "Longest rollout, in generation steps: the state at timestep t is reached from t + k, k at most this, with "
        "t + k clamped to T (SimpleTuner). 0 is off.",
        key="max_step_offset",
    )
    scheduled_sampling_probability: float = option(
        "scheduled_sampling",
        0.0,
        "Chance that a sample is rolled out (1506.03099); a ramp replaces it. 0 is off.",
        key="probability",
    )
    scheduled_sampling_ramp_steps: int = option(
        "scheduled_sampling",
        0,
        "Optimiser steps over which that chance goes from prob_start to prob_end, in place of probability "
        "(SimpleTuner). 0 is no ramp.",
        key="ramp_steps",
    )
    scheduled_sampling_prob_start: float = option(
        "scheduled_sampling",
        0.0,
        "Chance before and at the start of the ramp, a probability.",
        key="prob_start",
    )
    scheduled_sampling_prob_end: float = option(
        "scheduled_sampling",
        0.5,
        "Chance at the end of the ramp and after it, a probability.",
        key="prob_end",
    )
    scheduled_sampling_start_step: int = option(
        "scheduled_sampling",
        0,
        "Optimiser step at which the ramp starts.",
        key="start_step",
    )
    scheduled_sampling_ramp_shape: str = option(
        "scheduled_sampling",
        "linear",
        "Course of the ramp.",
        key="ramp_shape",
        known=RAMP_SHAPES,
    )
    scheduled_sampling_strategy: str = option(
        "scheduled_sampling",
        "uniform",
        "How the length k of a rollout is drawn, U uniform and K = max_step_offset: uniform from 0..K, biased_early "
        "round(U^2 K), mostly short, biased_late round((1 - U^2) K), mostly long (SimpleTuner).",
        key="strategy",
        known=STRATEGIES,
    )
    scheduled_sampling_sampler: str = option(
        "scheduled_sampling",
        "unipc",
        "Solver of the rollout, as generation.solver (Ren et al. 2025, 2502.00234).",
        key="sampler",
        known=SOLVERS,
    )
    scheduled_sampling_reflexflow: bool | None = option(
        "scheduled_sampling",
        None,
        "Add ReflexFlow's two losses at rolled-out states (2512.04904). Unset: on for flow matching, off for masked "
        "prediction.",
        key="reflexflow",
    )
    scheduled_sampling_reflexflow_alpha: float = option(
        "scheduled_sampling",
        1.0,
        "How much more ReflexFlow's frequency compensation weighs places of high exposure bias (2512.04904); 0 weighs "
        "all the same.",
        key="reflexflow_alpha",
    )
    scheduled_sampling_reflexflow_beta1: float = option(
        "scheduled_sampling",
        10.0,
        "Weight of ReflexFlow's direction anti-drift loss beside the cross-entropy (2512.04904).",
        key="reflexflow_beta1",
    )
    scheduled_sampling_reflexflow_beta2: float = option(
        "scheduled_sampling",
        1.0,
        "Weight of ReflexFlow's frequency compensation beside the cross-entropy (2512.04904).",
        key="reflexflow_beta2",
    )
    scheduled_sampling_visible_loss: float = option(
        "scheduled_sampling",
        0.0,
        "Weight of the cross-entropy on self-revealed tokens that are wrong and visible; for samplers that revise "
        "(generation.sampler=revise). SFT only.",
        key="visible_loss",
    )

    @property
    def scheduled_sampling_active(self) -> bool:
        """Whether any state may be rolled out."""
        ramp = max(self.scheduled_sampling_prob_start, self.scheduled_sampling_prob_end)
        chance = ramp if self.scheduled_sampling_ramp_steps > 0 else self.scheduled_sampling_probability
        return self.scheduled_sampling_max_step_offset > 0 and chance > 0

    def check_scheduled_sampling(self) -> None:
        """Raise ConfigError for a value that no run can use, or that no run would."""

        def named(*keys: str) -> list[str]:
            return [f"scheduled_sampling_{key}" for key in keys]

        for name in named("max_step_offset", "ramp_steps", "start_step"):
            require(self, name, getattr(self, name) >= 0, "at least 0")
        for name in named("probability", "prob_start", "prob_end"):
            require(self, name, 0 <= getattr(self, name) <= 1, "a probability in [0, 1]")
        for name in named("reflexflow_alpha", "reflexflow_beta1", "reflexflow_beta2", "visible_loss"):
            require(self, name, 0 <= getattr(self, name) < math.inf, "a finite number of at least 0")
        ramp = named("start_step", "prob_start", "prob_end", "ramp_shape")
        only_with(self, ramp, self.scheduled_sampling_ramp_steps > 0, "scheduled_sampling.ramp_steps > 0")
        only_with(self, named("visible_loss"), self.scheduled_sampling_active, ACTIVE)
        # `false` is an opt-out, and may stay where there is nothing to opt out of
        kept = self.scheduled_sampling_active or not self.scheduled_sampling_reflexflow
        only_with(self, named("reflexflow"), kept, ACTIVE)
