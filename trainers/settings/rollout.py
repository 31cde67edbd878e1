"""The options of a rollout that change its speed: adaptive samplers, caches, batches; and what an approximate cache
asks of the loss."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.sampling import CACHES, SAMPLERS, SELECTIONS, STALE
from trainers.settings.options import only_with, option, require


@dataclass
class RolloutArguments:
    """How fast completions are made, and at what price."""

    if TYPE_CHECKING:  # options of the class that mixes this one in
        sampler: str
        selection: str
        prediction_type: str
        likelihood: str
        nelbo_source: str
        nelbo_replay: str | None
        ratio: str | None

    threshold: float = option(
        "generation",
        0.9,
        "sampler: confidence only. Reveal every token whose distribution has at least this top probability "
        "(Fast-dLLM, 2505.22618).",
    )
    entropy_bound: float = option(
        "generation",
        0.1,
        "sampler: entropy_bound only. Reveal tokens by rising entropy while the sum less the largest is at most this, "
        "nats (EB-Sampler, 2505.24857).",
    )
    cache: str = option(
        "generation",
        "exact",
        "Keys and values kept between evaluations. exact: what changes nothing (finished blocks of a block-causal "
        "model); off: none; prefix, dual: those of an earlier state of a bidirectional model (Fast-dLLM, 2505.22618), "
        "which is another law: GRPO corrects for it by importance weights.",
        known=CACHES,
    )
    cache_refresh: int | None = option(
        "generation",
        None,
        "cache: prefix or dual only. Evaluations from one of the whole sequence to the next; unset: one a block.",
    )
    rollout_batch_size: int | None = option(
        "generation",
        None,
        "Completions written side by side, sorted by prompt length; batches do not show in the completions. Unset: "
        "per_device_train_batch_size.",
        key="batch_size",
    )
    compile_rollouts: bool = option(
        "generation",
        False,
        "Run the transformer by torch.compile while completions are written: about a minute to compile, then faster.",
        key="compile",
    )
    importance_cap: float = option(
        "loss",
        2.0,
        "generation.cache: prefix or dual only. Upper limit of a token's importance weight p / q, q being the cached "
        "law that drew it (truncated importance sampling, Yao et al. 2025).",
    )

    @property
    def rolls_out_off_policy(self) -> bool:
        """Whether completions are drawn from another law than the model's."""
        return self.cache in STALE and self.cache_refresh != 1

    def check_rollout(self) -> None:
        """Raise ConfigError for a value that no rollout can use, or that this one would ignore."""
        for name in ("threshold", "entropy_bound"):
            key = {"threshold": "confidence", "entropy_bound": "entropy_bound"}[name]
            only_with(self, [name], self.sampler == key, f"generation.sampler={key}")
        require(self, "threshold", 0 < self.threshold <= 1, "a probability above 0, at most 1")
        require(self, "entropy_bound", self.entropy_bound >= 0, "at least 0 nats")
        stale = self.cache in STALE
        only_with(self, ["cache_refresh", "importance_cap"], stale, f"generation.cache={' or '.join(STALE)}")
        for name in ("cache_refresh", "rollout_batch_size"):
            require(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1, or unset")
        require(self, "importance_cap", self.importance_cap > 0, "above 0")
        if self.cache != "exact":
            masked = self.prediction_type == "masked"
            require(self, "cache", masked, "exact for loss.prediction_type=flow_matching, which has no states to keep")
        if stale:
            walks = [name for name, sampler in SAMPLERS.items() if not sampler.solves]
            allowed = f"one of {', '.join(walks)} for generation.cache={self.cache}"
            require(self, "sampler", self.sampler in walks, allowed)

    def check_correction(self) -> None:
        """Raise ConfigError where GRPO could not tell how likely the model itself makes what a cached law drew."""
        if not self.rolls_out_off_policy:
            return
        beside = f"for generation.cache={self.cache}"
        sampler = SAMPLERS[self.sampler]
        final = [name for name, known in SAMPLERS.items() if known.final and not known.solves]
        require(self, "sampler", sampler.final, f"one of {', '.join(final)} {beside}: others have no recorded steps")
        exact = [name for name, rule in SELECTIONS.items() if rule.exact]
        chosen = not sampler.selects or self.selection in exact
        require(self, "selection", chosen, f"one of {', '.join(exact)} {beside}")
        replayed = self.likelihood == "trajectory_nelbo" and self.nelbo_source == "rollout"
        replayed &= self.nelbo_replay in ("drawn", "all")
        why = f"drawn or all, with loss.source=rollout, {beside}: a token's weight is that of its own step"
        require(self, "nelbo_replay", replayed, why)
        require(self, "ratio", self.ratio != "weighted", f"another ratio {beside}")
