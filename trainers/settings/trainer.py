"""Settings: every option of an experiment, declared once, as fields of dataclasses.

A field says what it means and where it is written in YAML (see `trainers/settings/options.py`): `generation.steps` is
the field `max_timesteps`, and fields without a section are TRL's. `trainers/settings/parser.py` turns a YAML file and
a command line into these dataclasses.

Values are checked in `__post_init__`, so a config built in Python is refused for the same reasons as one read from a
file. The known names of schedules, samplers etc. are read from the dicts of `core`: a new entry there is valid here.
"""
# ruff: noqa: RUF009 (`option` is dataclasses.field with its metadata)

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import TrainingArguments
from trl import GRPOConfig, SFTConfig

from core.alpha_schedule import SCHEDULES
from core.masking_strategy import MASKING_STRATEGIES
from core.nelbo import SOURCES
from core.sampling.samplers import SAMPLERS
from core.sampling.selection import SELECTIONS
from core.sampling.solvers import SOLVERS
from trainers.settings.launching import check_groups, processes_of
from trainers.settings.likelihood import LikelihoodArguments
from trainers.settings.model import ModelArguments as ModelArguments
from trainers.settings.options import ConfigError as ConfigError  # refusals are known by this module's name
from trainers.settings.options import check_known, only_with, option, refusal, require
from trainers.settings.rollout import RolloutArguments
from trainers.settings.scheduled_sampling import ScheduledSamplingArguments
from trainers.settings.task import TaskArguments as TaskArguments

# section -> what it holds; the order is the order of --help
SECTIONS = {
    "generation": "how completions are sampled, and on which grid of timesteps",
    "loss": "the likelihood bound and the one noise schedule that masking, bound and sampler share",
    "masking": "what the forward process hides",
    "scheduled_sampling": "training on states that the model reached by itself, against exposure bias",
    "model": "the denoiser and its LoRA adapter",
    "task": "dataset, sizes and rewards",
    "preferences": "the pairs that trainer dpo learns from",
    "training": "every other option of the trainer (TRL and transformers)",
}

PREDICTION_TYPES = ("masked", "flow_matching")
WEIGHTINGS = ("advantage", "wd1")

NO_HF_GENERATE = "completions come from the diffusion sampler, not from transformers' generate()"
NO_TOOLS = "a diffusion sampler fills one canvas; there are no tool-calling turns"
OWN_HEAD = "the scorer projects the masked positions itself, past TRL's patched head"
OWN_MODEL = "trainers/models/loading.py builds the model: set model.dtype, model.attn_implementation, ... instead"
FIXED_CANVAS = "the canvas has a fixed length and EOS fills its tail: set generation.max_completion_length"
NO_LIGER = "its kernels are written for causal models and deprecated by TRL"

# GRPO options that a diffusion sampler cannot honour: name -> reason. Refused rather than ignored.
UNSUPPORTED = {
    "use_vllm": "vLLM decodes left to right",
    "top_p": "the loss scores the untruncated distribution: use generation.temperature",
    "top_k": "the loss scores the untruncated distribution: use generation.temperature",
    "min_p": "the loss scores the untruncated distribution: use generation.temperature",
    "repetition_penalty": "it needs a left-to-right history: use generation.temperature",
    "generation_kwargs": NO_HF_GENERATE,
    "cache_implementation": NO_HF_GENERATE,
    "use_transformers_continuous_batching": NO_HF_GENERATE,
    "transformers_continuous_batching_config": NO_HF_GENERATE,
    "use_transformers_paged": NO_HF_GENERATE,
    "max_tool_calling_iterations": NO_TOOLS,
    "cast_lm_head_to_fp32": OWN_HEAD,
    "use_liger_kernel": NO_LIGER,
    "model_init_kwargs": OWN_MODEL,
    "pad_to_multiple_of": FIXED_CANVAS,
    "neftune_noise_alpha": "noise in the embeddings moves the policy ratio away from 1 without any update",
}

UNSUPPORTED_SFT = {
    "packing": FIXED_CANVAS,
    "eval_packing": FIXED_CANVAS,
    "padding_free": FIXED_CANVAS,
    "pad_to_multiple_of": FIXED_CANVAS,
    "loss_type": "the loss is the diffusion bound: see section loss",
    "use_liger_kernel": NO_LIGER,
    "model_init_kwargs": OWN_MODEL,
}


def check_supported(args: GRPOConfig | SFTConfig) -> None:
    """Refuse options of TRL that this project would otherwise silently ignore.

    Args:
        args: A trainer config, also one that was changed after it was built.

    Raises:
        ConfigError: An option of `UNSUPPORTED` (GRPO) or `UNSUPPORTED_SFT` is set away from its default.
    """
    refuse(args, UNSUPPORTED_SFT if isinstance(args, SFTConfig) else UNSUPPORTED)


def refuse(args: Any, unsupported: Mapping[str, str]) -> None:
    """Raise ConfigError for an option, name -> reason, that is set away from its default."""
    for declared in fields(args):
        # None beside the default: TRL itself resolves pad_to_multiple_of="auto" to None
        if declared.name in unsupported and getattr(args, declared.name) not in (declared.default, None):
            raise refusal(args, declared.name, f"not supported: {unsupported[declared.name]}")


@dataclass
class DiffusionArguments(LikelihoodArguments, ScheduledSamplingArguments, RolloutArguments):
    """The options of a diffusion language model, mixed into TRL's configs."""

    max_timesteps: int = option(
        "generation",
        128,
        "Denoising steps T of the whole canvas; also the timestep grid of masking and of the bound.",
        key="steps",
    )
    max_completion_length: int = option(
        "generation", 256, "Canvas length L in tokens: EOS fills the tail (LLaDA, 2502.09992)."
    )
    block_length: int | None = option(
        "generation",
        None,
        "Semi-autoregressive block length in tokens (LLaDA, 2502.09992); unset: one block. Must divide "
        "max_completion_length, and the number of blocks must divide steps.",
    )
    sampler: str = option(
        "generation",
        "count_matched",
        "How a step moves the canvas: count_matched reveals as many tokens as the schedule says, ancestral reveals "
        "each masked token with the schedule's probability (MDLM, 2406.07524), renoise predicts all and masks again; "
        "confidence and entropy_bound reveal what the model is sure of, in as many evaluations as that takes.",
        known=SAMPLERS,
    )
    solver: str = option(
        "generation",
        "euler",
        "Reverse step of the ancestral sampler (Ren et al. 2025, 2502.00234), or ODE solver of flow matching.",
        known=SOLVERS,
    )
    selection: str = option(
        "generation",
        "top1",
        "Which positions a count-matched step reveals. low_confidence is LLaDA's rule (2502.09992), whose commit "
        "log-probabilities are not exact; top1, entropy, margin and random look at the distribution only and are.",
        known=SELECTIONS,
    )
    temperature: float = option(
        "generation", 1.0, "Sampling temperature of rollouts and of the scored law; 0 is greedy (not for GRPO)."
    )
    prediction_type: str = option(
        "loss",
        "masked",
        "What the network denoises: masked predicts hidden tokens, flow_matching carries noisy token embeddings "
        "to clean ones (ELF, 2605.10938; SFT and sampling only).",
        known=PREDICTION_TYPES,
    )
    flow_noise_scale: float = option(
        "loss",
        1.0,
        "Standard deviation s of flow matching's noise around the mask embedding, in units of the embeddings' root "
        "mean square.",
    )
    alpha_schedule: str = option(
        "loss",
        "cosine",
        "alpha_t = P(a completion token is visible at timestep t); shared by masking, bound and sampler.",
        known=SCHEDULES,
    )
    alpha_min: float = option("loss", 0.01, "Lower end of alpha, a probability: visibility at timestep T.")
    alpha_max: float = option("loss", 0.99, "Upper end of alpha, a probability: visibility at timestep 0.")
    masking_strategy_type: str = option(
        "masking",
        "diffusion",
        "Forward process: diffusion masks at the schedule's rate, full masks the whole completion (d1, 2504.12216).",
        key="strategy_type",
        known=MASKING_STRATEGIES,
    )
    p_mask_prompt: float = option("masking", 0.3, "Probability that a prompt token is masked (d1, 2504.12216).")

    # Options of transformers with another default. None resolves to False, without the deprecation warning of False.
    gradient_checkpointing: bool | None = option("training", None, "Trade compute for memory; off unless asked for.")
    # this order of the union is the one HfArgumentParser can read
    report_to: None | str | list[str] = option(  # noqa: RUF036
        "training", "tensorboard", "Where metrics go: tensorboard, wandb, ..., all or none."
    )

    @property
    def reflexflow_on(self) -> bool:
        """Whether rolled-out states get ReflexFlow's losses; unset, flow matching has them and masks do not."""
        unset = self.scheduled_sampling_reflexflow is None
        asked = self.prediction_type == "flow_matching" if unset else self.scheduled_sampling_reflexflow
        return self.scheduled_sampling_active and bool(asked)

    def check_diffusion(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        check_known(self)
        for name in ("max_timesteps", "max_completion_length"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        self._check_blocks()
        ends = f"0 <= alpha_min < alpha_max <= 1 (alpha_min={self.alpha_min}, alpha_max={self.alpha_max})"
        require(self, "alpha_min", 0 <= self.alpha_min < self.alpha_max, ends)
        require(self, "alpha_max", self.alpha_max <= 1, ends)
        require(self, "temperature", self.temperature >= 0, "at least 0")
        require(self, "p_mask_prompt", 0 <= self.p_mask_prompt <= 1, "a probability in [0, 1]")
        self.check_likelihood()
        self._check_selection_replay()
        self._check_solver()
        self.check_rollout()
        self._check_flow_matching()
        self.check_scheduled_sampling()
        self._check_rollouts()
        weighted = self.masking_strategy_type == "diffusion" or not self.masks_by_timestep
        reason = f"'diffusion' for loss.{self.state_source}: without timesteps the weights are no bound"
        require(self, "masking_strategy_type", weighted, reason)

    def _check_selection_replay(self) -> None:
        chosen = self.selection == "low_confidence" and SAMPLERS[self.sampler].selects
        fits = chosen or self.likelihood != "selection_replay"
        require(self, "likelihood", fits, "another one: it replays generation.selection=low_confidence")

    def _check_blocks(self) -> None:
        if self.block_length is None:
            return
        length, steps = self.max_completion_length, self.max_timesteps
        divides = self.block_length >= 1 and length % self.block_length == 0
        require(self, "block_length", divides, f"a divisor of generation.max_completion_length={length}")
        blocks = length // self.block_length
        even = f"a number of blocks (here {blocks}) that divides generation.steps={steps}"
        require(self, "block_length", steps % blocks == 0, even)

    def _check_solver(self) -> None:
        solves = SAMPLERS[self.sampler].solves or self.prediction_type == "flow_matching"
        only_with(self, ["solver"], solves, "generation.sampler=ancestral or loss.prediction_type=flow_matching")
        timed = self.masking_strategy_type == "diffusion" or not SAMPLERS[self.sampler].timed
        reason = f"'diffusion' for generation.sampler={self.sampler}, which masks by timestep"
        require(self, "masking_strategy_type", timed, reason)

    def _check_flow_matching(self) -> None:
        flows, flow, masked = self.prediction_type == "flow_matching", "flow matching", "loss.prediction_type=masked"
        require(self, "flow_noise_scale", 0 < self.flow_noise_scale < math.inf, "a finite number above 0")
        only_with(self, ["flow_noise_scale"], flows, "loss.prediction_type=flow_matching")
        only_with(self, ["block_length"], not flows, f"{masked}: the ODE of {flow} moves the whole canvas at once")
        only_with(self, ["sampler"], not flows, f"{masked}: {flow} samples by an ODE, see generation.solver")
        only_with(self, ["scheduled_sampling_visible_loss"], not flows, f"{masked}: {flow} hides no token")
        timed = not flows or self.masking_strategy_type == "diffusion"
        require(self, "masking_strategy_type", timed, f"'diffusion' for {flow}: its noise levels are timesteps")

    def _check_rollouts(self) -> None:
        """Scheduled sampling beside the other sections."""
        offset = self.scheduled_sampling_max_step_offset
        expected = f"at most generation.steps={self.max_timesteps}"
        require(self, "scheduled_sampling_max_step_offset", offset <= self.max_timesteps, expected)
        weights = [f"scheduled_sampling_reflexflow_{name}" for name in ("alpha", "beta1", "beta2")]
        only_with(self, weights, self.reflexflow_on, "ReflexFlow on: see scheduled_sampling.reflexflow")
        if not self.scheduled_sampling_active:
            return
        timed = "'diffusion' for scheduled sampling: without timesteps there is nothing to roll out"
        require(self, "masking_strategy_type", self.masking_strategy_type == "diffusion", timed)
        walks = "trajectory_nelbo for scheduled sampling, which walks from its fresh masks"
        require(self, "likelihood", self.likelihood == "trajectory_nelbo", walks)
        fresh = self.prediction_type == "flow_matching" or self.nelbo_source == "forward"
        reason = "replayed states are already the model's own: there is no exposure bias to remove"
        require(self, "nelbo_source", fresh, f"'forward' for scheduled sampling: {reason}")
        if self.scheduled_sampling_probability == 1 and self.scheduled_sampling_ramp_steps == 0:
            warnings.warn(
                "scheduled_sampling.probability=1.0: a fully self-generated state makes the optimum ignore visible "
                "tokens (Huszar 2015); use a ramp or a probability below 1",
                stacklevel=2,
            )


def settle_device(args: TrainingArguments) -> None:
    """Without an accelerator, run on the CPU in float32 unless told otherwise."""
    # transformers takes the text of a switch for the name of a sharding of old
    args.fsdp = {"true": True, "false": None}.get(str(args.fsdp).lower(), args.fsdp)
    # TRL turns bf16 on unless told otherwise, and transformers then refuses to start without an accelerator
    args.use_cpu = args.use_cpu or not torch.accelerator.is_available()
    if args.use_cpu and args.bf16 is None:
        args.bf16 = False


@dataclass
class ImprovedDiffuGRPOConfig(DiffusionArguments, GRPOConfig):
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
    remove_unused_columns: bool | None = option(
        "training", False, "Drop dataset columns but the prompt; rewards need the others."
    )

    def __post_init__(self):
        self._refuse_what_is_no_policy_gradient()
        self.check_diffusion()
        require(self, "temperature", self.temperature > 0, "above 0: greedy rollouts of one prompt are all the same")
        require(self, "entropy_coef", self.entropy_coef == 0, "0: entropies are measured here without a gradient")
        require(self, "use_adaptive_entropy", not self.use_adaptive_entropy, "false: see training.entropy_coef")
        require(self, "wd1_psi", 0 < self.wd1_psi < math.inf, "a finite number above 0")
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


@dataclass
class DiffusionSFTConfig(DiffusionArguments, SFTConfig):
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
        check_supported(self)
        settle_device(self)
        super().__post_init__()

    def _check_annealing(self) -> None:
        steps = ["attention_annealing_steps"]
        require(self, *steps, self.attention_annealing_steps >= 0, "at least 0")
        masked = self.prediction_type == "masked" and not self.scheduled_sampling_active
        reason = "loss.prediction_type=masked and no scheduled sampling: other states are walked to with the whole "
        only_with(self, steps, masked, reason + "canvas in sight")
        reason = "loss.memory_budget_gib unset: its trial has no such attention rule"
        only_with(self, steps, self.memory_budget_gib is None, reason)


def check_block_causal(args: DiffusionArguments) -> None:
    """Raise ConfigError for options that a block-causal model cannot follow."""
    beside, masked = "model.attention=block_causal", args.prediction_type == "masked"
    require(args, "prediction_type", masked, f"'masked' for {beside}: a flow moves the whole canvas at once")
    require(args, "block_length", args.block_length is not None, f"the tokens of a block for {beside}")
    offset, whole = args.scheduled_sampling_max_step_offset, "its rollouts walk the whole canvas at once"
    require(args, "scheduled_sampling_max_step_offset", offset == 0, f"0 for {beside}: {whole}")
