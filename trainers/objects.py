"""From one flat config to the objects of core: the one place where option names meet constructor arguments."""

from core.alpha_schedule import AlphaSchedule
from core.denoiser import Denoiser
from core.generator import DiffusionGenerator
from core.masking_strategy import MASKING_STRATEGIES, DiffusionMaskingStrategy, MaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from trainers.config import DiffusionArguments


def schedule_arguments(args: DiffusionArguments) -> dict[str, object]:
    """The four numbers of the schedule."""
    return {
        "max_timesteps": args.max_timesteps,
        "alpha_schedule": args.alpha_schedule,
        "alpha_min": args.alpha_min,
        "alpha_max": args.alpha_max,
    }


def build_loss(args: DiffusionArguments) -> TrajectoryNELBOLoss:
    """The loss that the loss section describes."""
    return TrajectoryNELBOLoss(
        source=args.nelbo_source,
        num_draws=args.num_draws,
        coupling=args.nelbo_coupling,
        replay=args.nelbo_replay,
        **schedule_arguments(args),
    )


def build_masking(args: DiffusionArguments) -> MaskingStrategy:
    """The strategy that the masking section describes."""
    strategy = MASKING_STRATEGIES[args.masking_strategy_type]
    if issubclass(strategy, DiffusionMaskingStrategy):
        return strategy(args.p_mask_prompt, **schedule_arguments(args))
    return strategy(args.p_mask_prompt)


def build_generator(
    args: DiffusionArguments,
    denoiser: Denoiser,
    schedule: AlphaSchedule,
    masking: MaskingStrategy,
    eos_id: int,
    temperature: float | None = None,
) -> DiffusionGenerator:
    """The sampler that the generation section describes; ``temperature`` overrides it (evaluation)."""
    return DiffusionGenerator(
        denoiser,
        schedule,
        masking,
        canvas_length=args.max_completion_length,
        block_length=args.block_length,
        sampler=args.sampler,
        selection=args.selection,
        temperature=args.temperature if temperature is None else temperature,
        eos_id=eos_id,
    )
