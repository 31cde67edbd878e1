"""What a plan derives from the options of a run: blocks, type of products, how often what is done, assumed shares."""

from core.sampling import STALE
from trainers.benchmarking.steps import FULL, LORA
from trainers.planning.memory import Setup
from trainers.planning.models import Model
from trainers.planning.phases import ROLLOUT, Often
from trainers.planning.work import Blocks, Planned, Work
from trainers.settings.config import ExperimentConfig
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.objects import build_likelihood
from trainers.settings.options import require
from trainers.settings.sft import DiffusionSFTConfig

# Shares of the roofline that were measured, on one CPU thread: docs/results.md, column "of roofline"; and of the peak:
# the same page, MFU, with what checkpointing runs again and without the gradients of frozen weights, as here.
ROLLOUT_SHARES = {"exact": 0.6, "block_causal": 0.22, "prefix": 0.35, "dual": 0.30}
TRAINING_SHARES = {FULL: 0.6, LORA: 0.45}
TRAINING = "training"
ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}  # auto: checkpoints of some size are in bfloat16


def setup_of(config: ExperimentConfig, mixed: bool) -> Setup:
    """What is trained and how it is kept.

    Args:
        config: the run's options.
        mixed: whether products are made in another type than that of the weights, see `compute_dtype`.
    """
    args = config.training
    return Setup(
        trained=LORA if config.model.use_peft else FULL,
        itemsize=ITEMSIZES[config.model.dtype],
        mixed=mixed,
        checkpointed=bool(args.gradient_checkpointing),
        reference=isinstance(args, ImprovedDiffuGRPOConfig) and args.beta != 0.0,
    )


def blocks_of(config: ExperimentConfig, model: Model) -> Blocks | None:
    """The blocks of a block-causal model; None: bidirectional."""
    if (config.model.attention or model.attention) == "bidirectional":
        return None
    length = config.training.block_length
    require(config.training, "block_length", length is not None, "the tokens of a block of this block-causal model")
    assert length is not None
    return Blocks(length, model.nature.prompt_in_blocks)


def compute_dtype(config: ExperimentConfig, cpu: bool) -> tuple[str, bool]:
    """The type that products are made in, and whether autocast or an engine makes it so: bf16 is on by default where
    there is an accelerator, as in TRL."""
    said = config.settings.get("training", {})
    mixed = bool(said.get("bf16", not cpu))
    own = "bfloat16" if config.model.dtype == "auto" else config.model.dtype
    return ("bfloat16" if mixed else own), mixed


def how_often(args: Planned, work: Work) -> Often:
    """In an optimiser step; see TRL's `_generate_and_score_completions` for when old log-probabilities are asked."""
    micro_steps = args.gradient_accumulation_steps
    if isinstance(args, DiffusionSFTConfig):
        return Often(rollout=0, old=0, reference=0, loss=micro_steps)
    assert isinstance(args, ImprovedDiffuGRPOConfig) and work.trajectory is not None
    assert args.steps_per_generation is not None  # TRL settles it
    serves = args.steps_per_generation * args.num_iterations  # micro-steps of one rollout
    recorded = args.reuse_commit_logps and build_likelihood(args).replays_steps and args.p_mask_prompt == 0
    asked = micro_steps % serves != 0 and not (recorded and work.trajectory.exact)
    return Often(
        rollout=micro_steps / serves,
        old=micro_steps if asked or args.rolls_out_off_policy else 0,
        reference=micro_steps if args.beta != 0 else 0,
        loss=micro_steps,
    )


def shares_of(
    args: DiffusionArguments, blocks: Blocks | None, trained: str, efficiency: float | None
) -> dict[str, float]:
    """Shares of the roofline that the rollout and the rest are assumed to reach: as measured, or ``efficiency``."""
    if efficiency is not None:
        return {ROLLOUT: efficiency, TRAINING: efficiency}
    cache = args.cache if args.cache in STALE else "exact" if blocks is None else "block_causal"
    return {ROLLOUT: ROLLOUT_SHARES[cache], TRAINING: TRAINING_SHARES[trained]}
