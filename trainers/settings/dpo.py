"""The options of preference training: TRL's DPO, on likelihood bounds in place of likelihoods, and its pairs."""
# ruff: noqa: RUF009 (`option` is dataclasses.field with its metadata)

import math
from dataclasses import dataclass

from transformers import IntervalStrategy
from trl import DPOConfig

from core.likelihoods import ESTIMATORS
from core.nelbo import SOURCES
from trainers.settings.diffusion import DiffusionArguments, settle_device
from trainers.settings.options import ConfigError, only_with, option, require
from trainers.settings.unsupported import FIXED_CANVAS, NO_LIGER, refuse

RECORDED = "it replays a recorded rollout, which a given text does not have"
# Estimators of core that cannot score a given text, or not by one number: name -> reason. The others can.
NOT_FOR_PAIRS = {
    "rollout": RECORDED,
    "selection_replay": RECORDED,
    "spg": "its two bounds are for advantages of either sign; a preference takes the difference of one",
}
OWN_SCORER = "completions are scored on masked states, not left to right"

# DPO options that a diffusion model cannot honour: name -> reason. Refused rather than ignored.
UNSUPPORTED_DPO = {
    "precompute_ref_log_probs": "the reference is scored on the states drawn for the policy, in the same step",
    "precompute_ref_batch_size": "there is nothing to precompute",
    "sync_ref_model": "a resumed run would start from another reference",
    "max_length": FIXED_CANVAS,
    "truncation_mode": FIXED_CANVAS,
    "padding_free": FIXED_CANVAS,
    "pad_to_multiple_of": FIXED_CANVAS,
    "ld_alpha": "the tail of a canvas is EOS, not verbose text",
    "use_weighting": OWN_SCORER,
    "use_liger_kernel": NO_LIGER,
}


@dataclass
class DiffusionDPOConfig(DiffusionArguments, DPOConfig):  # pyright: ignore[reportIncompatibleVariableOverride]  ours are the types that TRL is given
    """Options of `DiffusionDPOTrainer`: TRL's DPO options, those of a diffusion model, and where pairs come from."""

    nelbo_source: str = option(
        "loss",
        "forward",
        "Where the scored states come from: forward masks the text. Preferred and rejected texts have no rollout.",
        key="source",
        known=SOURCES,
    )
    share_states_in_pairs: bool = option(
        "loss",
        True,
        "Score chosen and rejected text of a pair on the same masks: no bias, and less noise (docs/preferences.md). "
        "false: on masks of their own, as VRPO has it (2505.19223). Policy and reference share theirs in any case.",
    )
    preference_files: list[str] | None = option(
        "preferences",
        None,
        "Local jsonl files, [train] or [train, validation], with prompt, chosen and rejected. Unset, and no "
        "dataset_name: pairs of the model's own completions of training problems, right against wrong.",
        key="data_files",
    )
    preference_dataset: str | None = option(
        "preferences", None, "A hub dataset with prompt, chosen and rejected.", key="dataset_name"
    )
    preference_problems: int | None = option(
        "preferences", None, "Own completions: of the first so many training problems; unset: of all.", key="problems"
    )
    preference_samples: int = option(
        "preferences", 8, "Own completions: so many of each problem, at generation.temperature.", key="samples"
    )
    pairs_per_problem: int = option(
        "preferences", 1, "Own completions: at most so many pairs of a problem, no text in two of them."
    )

    def __post_init__(self):
        self.check_diffusion()
        self._check_loss()
        self._check_preferences()
        refuse(self, UNSUPPORTED_DPO)
        settle_device(self)
        super().__post_init__()

    def _check_loss(self) -> None:
        fits = ", ".join(name for name in ESTIMATORS if name not in NOT_FOR_PAIRS)
        reason = NOT_FOR_PAIRS.get(self.likelihood)
        require(self, "likelihood", reason is None, f"one of {fits}: {reason}")
        require(self, "nelbo_source", self.nelbo_source != "rollout", f"'forward': {RECORDED}")
        require(self, "ratio", self.ratio is None, "unset: DPO compares whole sequences, there is no token ratio")
        budget = "unset: DPO's step holds two texts a row; set loss.states_per_forward"
        require(self, "memory_budget_gib", self.memory_budget_gib is None, budget)
        flows = self.prediction_type == "flow_matching"
        require(self, "prediction_type", not flows, "'masked' for DPO: an ODE gives no token likelihood")
        offset = "scheduled_sampling_max_step_offset"
        require(self, offset, not self.scheduled_sampling_active, "0 for DPO: walked-to states give no bound")
        require(self, "temperature", self.temperature > 0, "above 0: a greedy policy has no likelihoods")
        require(self, "beta", 0 < self.beta < math.inf, "a finite number above 0")

    def _check_preferences(self) -> None:
        files, named = self.preference_files, self.preference_dataset
        both = files is None or named is None
        require(self, "preference_dataset", both, f"no second source beside preferences.data_files={files!r}")
        require(self, "preference_files", files is None or len(files) in (1, 2), "[train] or [train, validation]")
        own = "own completions: unset preferences.data_files and preferences.dataset_name"
        sampling = ["preference_problems", "preference_samples", "pairs_per_problem"]
        only_with(self, sampling, files is None and named is None, own)
        problems = self.preference_problems
        require(self, "preference_problems", problems is None or problems >= 1, "at least 1, or unset")
        require(self, "preference_samples", self.preference_samples >= 2, "at least 2: a pair has two texts")
        require(self, "pairs_per_problem", self.pairs_per_problem >= 1, "at least 1")

    @property
    def evaluates(self) -> bool:
        """Whether the run looks at validation pairs."""
        return self.eval_strategy != "no"

    def check_validation(self, found: bool) -> None:
        """Raise ConfigError if validation pairs are wanted, and there are none."""
        if self.evaluates and not found:
            when = IntervalStrategy(self.eval_strategy).value
            raise ConfigError(
                f"training.eval_strategy={when!r}: the preferences have no validation pairs; "
                "expected no, or a second file in preferences.data_files"
            )
