"""The options of a diffusion language model, whatever trains it: generation, likelihood and the one noise schedule.

A field says what it means and where it is written in YAML (`trainers.settings.options`): `generation.steps` is the
field `max_timesteps`, and fields without a section are TRL's. Values are checked in `__post_init__` of the trainers'
configs, so that one built in Python is refused for the same reasons as one read from a file. The known names of
schedules, samplers etc. are those of the dicts of `core`: a new entry there is valid here.
"""
# ruff: noqa: RUF009 (`option` is dataclasses.field with its metadata)

import math
import warnings
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from core.alpha_schedule import SCHEDULES
from core.masking_strategy import MASKING_STRATEGIES
from core.sampling import COUNTS, SAMPLERS, SELECTIONS, SOLVERS
from trainers.settings.likelihood import LikelihoodArguments
from trainers.settings.options import check_known, only_with, option, require
from trainers.settings.rollout import RolloutArguments
from trainers.settings.scheduled_sampling import ScheduledSamplingArguments

PREDICTION_TYPES = ("masked", "flow_matching")


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
        "max_completion_length, and the number of blocks must divide steps. SDAR and LLaDA2 count blocks from the "
        "start of the prompt, whose end shares one with the first tokens of the completion.",
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
    counts: str = option(
        "generation",
        "schedule",
        "sampler: count_matched only. How many positions a step reveals: schedule follows alpha_t; dream is Dream's "
        "own rule (2508.15487), int(n (1 - s/t)) of n masked tokens, all that are left at the last step (its levels: "
        "alpha_schedule linear, alpha_min 0, alpha_max 0.999).",
        known=COUNTS,
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
    p_mask_prompt: float | None = option(
        "masking",
        None,
        "Probability that a prompt token is masked. Unset: 0 where the loss replays a rollout (loss.source rollout, "
        "loss.likelihood rollout or selection_replay), which saw the prompt; else 0.3 (d1, 2504.12216).",
    )

    # Options of transformers with another default. None resolves to False, without the deprecation warning of False.
    gradient_checkpointing: bool | None = option("training", None, "Trade compute for memory; off unless asked for.")
    router_aux_loss_coef: float | None = option(
        "training",
        0.0,
        "0: a mixture of experts gets no loss of its routers, which the model's own loss alone knows.",
    )
    eval_before: bool = option(
        "training",
        True,
        "Measure held-out accuracy before training too. false saves those minutes; the report then has no gain. A "
        "resumed run reads what its first start measured.",
    )
    # in this order of the union a text is one value, see `trainers.settings.values`
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
        routers = "0: states are scored past the model's own loss, which alone asks the routers of its experts"
        require(self, "router_aux_loss_coef", self.router_aux_loss_coef == 0, routers)
        rate = self.p_mask_prompt
        require(self, "p_mask_prompt", rate is None or 0 <= rate <= 1, "a probability in [0, 1], or unset")
        self.check_likelihood()
        clean = f"0 or unset beside {self.replay_source}: states are replayed, and the rollout saw all of the prompt"
        require(self, "p_mask_prompt", not (rate and self.replays_rollout), clean)
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
        only_with(self, ["counts"], self.sampler == "count_matched", "generation.sampler=count_matched")
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
        only_with(self, ["counts"], not flows, f"{masked}: {flow} reveals all tokens at once")
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


def check_block_causal(args: DiffusionArguments) -> None:
    """Raise ConfigError for options that a block-causal model cannot follow."""
    beside, masked = "model.attention=block_causal", args.prediction_type == "masked"
    require(args, "prediction_type", masked, f"'masked' for {beside}: a flow moves the whole canvas at once")
    require(args, "block_length", args.block_length is not None, f"the tokens of a block for {beside}")
    offset, whole = args.scheduled_sampling_max_step_offset, "its rollouts walk the whole canvas at once"
    require(args, "scheduled_sampling_max_step_offset", offset == 0, f"0 for {beside}: {whole}")


def settle_device(args: TrainingArguments) -> None:
    """Without an accelerator, run on the CPU in float32 unless told otherwise."""
    # transformers takes the text of a switch for the name of a sharding of old
    args.fsdp = {"true": True, "false": None}.get(str(args.fsdp).lower(), args.fsdp)
    # TRL turns bf16 on unless told otherwise, and transformers then refuses to start without an accelerator
    args.use_cpu = args.use_cpu or not torch.accelerator.is_available()
    if args.use_cpu and args.bf16 is None:
        args.bf16 = False
