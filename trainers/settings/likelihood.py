"""The options of the policy likelihood: which estimator scores a completion, on which states, with which ratio.

An option that only some estimators take is refused beside the others; which take it is read from their constructors.
"""

import math
from dataclasses import dataclass
from inspect import signature
from typing import Any

from core.likelihoods import ESTIMATORS
from core.nelbo import SOURCES
from core.scoring import COUPLINGS, RATIOS, REPLAYS
from trainers.settings.options import ConfigError, only_with, option, require

# options of section loss that some estimators take: name -> argument of their constructors
LIKELIHOOD_OPTIONS = {
    "num_draws": "num_draws",
    "ratio": "ratio",
    "nelbo_source": "source",
    "nelbo_coupling": "coupling",
    "nelbo_replay": "replay",
    "shrinkage": "shrinkage",
    "eubo_power": "power",
    "eubo_share": "upper_share",
}


@dataclass
class ScoringArguments:
    """The part of section loss that says in how many forwards states are scored, and which forwards are saved."""

    states_per_forward: int | None = option(
        "loss",
        None,
        "Scored states in one forward: the draws of all sequences side by side, so many at a time. A group's "
        "activations are made again in the backward pass: the peak of memory is then that of one group, for a second "
        "forward. Unset: all at once.",
    )
    memory_budget_gib: float | None = option(
        "loss",
        None,
        "Chooses states_per_forward: GiB that a scoring step may take beside weights and optimiser, gradients "
        "included. Measured at the start, on the longest prompt.",
    )
    max_draws: int | None = option(
        "loss",
        None,
        "With memory_budget_gib, in place of num_draws: as many draws as fit into one forward, up to this number, and "
        "at least the likelihood's own.",
    )
    reuse_commit_logps: bool = option(
        "loss",
        True,
        "GRPO: where the loss replays single steps of an exact rollout, the old policy's log-probs are those recorded "
        "by the sampler, and its forward is saved. The ratio is then current to behaviour policy: before an update 1 "
        "up to rounding (1e-5 in float32) in place of exactly.",
    )


@dataclass
class LikelihoodArguments(ScoringArguments):
    """The part of section loss that says what stands for log p(completion | prompt)."""

    likelihood: str = option(
        "loss",
        "trajectory_nelbo",
        "What stands for log p(completion | prompt): an estimator of core/likelihoods, each with its paper; "
        "docs/estimators.md compares them.",
        known=ESTIMATORS,
    )
    trajectory_nelbo_loss: bool | None = option(
        "loss", None, "true is likelihood: trajectory_nelbo, by another name; beside another likelihood it is false."
    )
    nelbo_source: str = option(
        "loss",
        "rollout",
        "Where the scored states come from: rollout replays the recorded denoising steps (TraceRL, 2509.06949), "
        "forward masks the finished completion.",
        key="source",
        known=SOURCES,
    )
    num_draws: int | None = option(
        "loss",
        None,
        "States scored per sequence and iteration: M noise levels (forward) or K denoising steps (rollout). Unset: "
        "the likelihood's own number, 2 for trajectory_nelbo.",
    )
    ratio: str | None = option(
        "loss",
        None,
        "What goes into importance ratio and KL: normalised (a weighted mean of log-probs; the weights multiply the "
        "loss), weighted (a weighted sum, as most papers write it), plain (an unweighted mean), none (no ratio: "
        "A log p, also in later iterations). Unset: none for spg, else normalised. See core/scoring/ratios.py.",
        known=RATIOS,
    )
    shrinkage: int | None = option(
        "loss", None, "likelihood: rollout only. Neighbouring steps merged into one state (TraceRL, 2509.06949)."
    )
    eubo_power: float = option(
        "loss", 1.5, "likelihood: spg only. Power of the upper bound, SPG's beta (2510.09541); at least 1."
    )
    eubo_share: float = option(
        "loss", 0.5, "likelihood: spg only. Share of the upper bound for negative advantages (2510.09541)."
    )
    nelbo_coupling: str = option(
        "loss",
        "nested",
        "Masks of the M levels of one sequence: nested along one trajectory, antithetic (DiffuCoder's complementary "
        "pairs, 2506.20639) or independent.",
        key="coupling",
        known=COUPLINGS,
    )
    nelbo_replay: str | None = option(
        "loss",
        None,
        "Which recorded steps are scored: segments merges them to K states (least noise), drawn takes K at random, "
        "weighted steps/K (no bias), all takes all. Unset: segments; drawn for selection_replay.",
        key="replay",
        known=REPLAYS,
    )

    @property
    def masks_by_timestep(self) -> bool:
        """Whether the scored states are fresh masks on the schedule."""
        return self.likelihood == "spg" or (self.likelihood == "trajectory_nelbo" and self.nelbo_source == "forward")

    @property
    def replays_rollout(self) -> bool:
        """Whether the scored states are those of the recorded rollout."""
        return ESTIMATORS[self.likelihood](**self.likelihood_arguments).source == "rollout"

    @property
    def replay_source(self) -> str:
        """The option that asks for the rollout's own states, with its value."""
        named = self.likelihood == "trajectory_nelbo"
        return f"loss.source={self.nelbo_source}" if named else f"loss.likelihood={self.likelihood}"

    @property
    def state_source(self) -> str:
        """The option of section loss that says where states come from, with its value."""
        return "likelihood=spg" if self.likelihood == "spg" else f"source={self.nelbo_source}"

    def check_likelihood(self) -> None:
        """Raise ConfigError for options that disagree, that the chosen estimator ignores, or that it cannot use."""
        named = self.likelihood == "trajectory_nelbo"
        agree = self.trajectory_nelbo_loss in (None, named)
        says = f"{str(named).lower()} or unset beside loss.likelihood={self.likelihood}"
        require(self, "trajectory_nelbo_loss", agree, says)
        for name, key in LIKELIHOOD_OPTIONS.items():
            takes = [known for known, cls in ESTIMATORS.items() if key in signature(cls).parameters]
            only_with(self, [name], self.likelihood in takes, f"loss.likelihood={' or '.join(takes)}")
        self._check_scoring()
        try:
            ESTIMATORS[self.likelihood](**self.likelihood_arguments)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @property
    def counts_draws(self) -> bool:
        """Whether the number of scored states is num_draws, and not that of the sampler's steps."""
        return self.nelbo_replay != "all" and self.shrinkage is None

    def _check_scoring(self) -> None:
        group, budget = self.states_per_forward, self.memory_budget_gib
        require(self, "states_per_forward", group is None or group >= 1, "at least 1")
        require(self, "memory_budget_gib", budget is None or 0 < budget < math.inf, "a finite number above 0")
        chosen = f"unset beside loss.memory_budget_gib={budget}, which chooses it"
        require(self, "states_per_forward", group is None or budget is None, chosen)
        only_with(self, ["max_draws"], budget is not None, "loss.memory_budget_gib")
        if self.max_draws is not None:
            require(self, "max_draws", self.max_draws >= 1, "at least 1")
            require(self, "num_draws", self.num_draws is None, f"unset beside loss.max_draws={self.max_draws}")
            steps = "unset for a replay of all steps, which has as many states as the sampler took"
            require(self, "max_draws", self.counts_draws, steps)

    @property
    def likelihood_arguments(self) -> dict[str, Any]:
        """Constructor arguments of the estimator: the schedule, and every option that it takes and that is set."""
        taken = signature(ESTIMATORS[self.likelihood]).parameters
        named = ["max_timesteps", "alpha_schedule", "alpha_min", "alpha_max", "block_length", "temperature"]
        keys = {name: name for name in named} | LIKELIHOOD_OPTIONS
        values = {key: getattr(self, name) for name, key in keys.items() if key in taken}
        return {key: value for key, value in values.items() if value is not None}
