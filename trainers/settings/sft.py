"""Settings of trainer sft."""

from dataclasses import dataclass

from trl import SFTConfig

from core.nelbo import SOURCES
from trainers.settings.diffusion import DiffusionArguments, settle_device
from trainers.settings.options import only_with, option, require
from trainers.settings.unsupported import check_supported


@dataclass
class DiffusionSFTConfig(DiffusionArguments, SFTConfig):  # pyright: ignore[reportIncompatibleVariableOverride]  ours are the types that TRL is given
    """Options of `DiffusionSFTTrainer`: TRL's SFT options and those of a diffusion model."""

    nelbo_source: str = option(
        "loss",
        "forward",
        "Where the scored states come from: forward masks the text. SFT text has no recorded rollout.",
        key="source",
        known=SOURCES,
    )
    attention_annealing_steps: int = option(
        "training",
        0,
        "For a model that was autoregressive: at optimiser step s of the first so many, a position of the future is "
        "visible with probability s / attention_annealing_steps (DiffuLLaMA, 2410.17891). 0: all of it at once. "
        "Evaluation sees all.",
    )

    def __post_init__(self):
        self.check_diffusion()
        self._check_annealing()
        require(self, "nelbo_source", self.nelbo_source != "rollout", "'forward': SFT text has no recorded rollout")
        bound = self.likelihood == "trajectory_nelbo"
        require(self, "likelihood", bound, "trajectory_nelbo: SFT minimises the bound, the others are for policies")
        whole = "unset or true: the loss is that of the completion behind its prompt"
        require(self, "completion_only_loss", self.completion_only_loss is not False, whole)
        check_supported(self)
        settle_device(self)
        super().__post_init__()

    def _check_annealing(self) -> None:
        name = "attention_annealing_steps"
        require(self, name, self.attention_annealing_steps >= 0, "at least 0")
        masked = self.prediction_type == "masked" and not self.scheduled_sampling_active
        reason = "loss.prediction_type=masked and no scheduled sampling: other states are walked to with the whole "
        only_with(self, [name], masked, reason + "canvas in sight")
        reason = "loss.memory_budget_gib unset: its trial has no such attention rule"
        only_with(self, [name], self.memory_budget_gib is None, reason)
