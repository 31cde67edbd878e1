"""Settings of trainer grpo."""

import math
from dataclasses import dataclass

from trl import GRPOConfig

from trainers.settings.diffusion import DiffusionArguments, settle_device
from trainers.settings.launching import check_groups, processes_of
from trainers.settings.options import only_with, option, require
from trainers.settings.unsupported import check_supported

WEIGHTINGS = ("advantage", "wd1")


@dataclass
class ImprovedDiffuGRPOConfig(DiffusionArguments, GRPOConfig):  # pyright: ignore[reportIncompatibleVariableOverride]  ours are the types that TRL is given
    """Options of `ImprovedDiffuGRPOTrainer`: TRL's GRPO options and those of a diffusion model."""

    advantage_weighting: str = option(
        "loss",
        "advantage",
        "What multiplies log p: TRL's advantage, or wd1's exponential weights (2507.08838), softmax(psi A) over the "
        "group minus softmax(-psi A), times the group size.",
        known=WEIGHTINGS,
    )
    wd1_psi: float = option("loss", 1.0, "psi of advantage_weighting: wd1 (2507.08838), above 0.")
    disable_dropout: bool = option(
        "training", True, "Dropout would move the policy ratio away from 1 without any update."
    )
    num_completions_to_print: int | None = option(
        "training",
        4,
        "With log_completions: completions in the table after a log entry, drawn from the last rollout. TRL prints "
        "all of them.",
    )
    recorded_rollouts: int = option(
        "training",
        20,
        "Rollouts, evenly spread over the run, of which two groups of completions are kept for report.html, with "
        "their rewards and the step that revealed each token (rollouts.jsonl). 0: none.",
    )
    remove_unused_columns: bool | None = option(
        "training", False, "Drop dataset columns but the prompt; rewards need the others."
    )

    def __post_init__(self):
        self._refuse_what_is_no_policy_gradient()
        self.check_diffusion()
        require(self, "temperature", self.temperature > 0, "above 0: greedy rollouts of one prompt are all the same")
        require(self, "wd1_psi", 0 < self.wd1_psi < math.inf, "a finite number above 0")
        require(self, "recorded_rollouts", self.recorded_rollouts >= 0, "at least 0")
        self.check_correction()
        only_with(self, ["wd1_psi"], self.advantage_weighting == "wd1", "loss.advantage_weighting=wd1")
        check_supported(self)
        check_groups(self, processes_of())
        settle_device(self)
        super().__post_init__()

    def _refuse_what_is_no_policy_gradient(self) -> None:
        flows = self.prediction_type == "flow_matching"
        require(self, "prediction_type", not flows, "'masked' for GRPO: an ODE gives no token likelihood")
        pull = "for GRPO: it pulls towards the sampled text whatever its advantage"
        reflexes = self.scheduled_sampling_reflexflow is True
        require(self, "scheduled_sampling_reflexflow", not reflexes, f"false or unset {pull}")
        visible = self.scheduled_sampling_visible_loss > 0
        require(self, "scheduled_sampling_visible_loss", not visible, f"0 {pull}")
