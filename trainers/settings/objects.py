"""From one flat config to the objects of core: the one place where option names meet constructor arguments."""

from inspect import signature
from typing import TypedDict, cast

from core.alpha_schedule import AlphaSchedule
from core.denoisers import Denoiser, EmbeddingDenoiser
from core.flow import FlowGenerator, ReflexFlow
from core.generator import DiffusionGenerator
from core.likelihoods import ESTIMATORS
from core.masking_strategy import (
    MASKING_STRATEGIES,
    DiffusionMaskingStrategy,
    MaskingStrategy,
    sync_masking_with_nelbo,
)
from core.nelbo import TrajectoryNELBOLoss
from core.scheduled_sampling import ScheduledSampling
from core.scoring import Likelihood
from core.trajectory import EosIds
from trainers.settings.diffusion import DiffusionArguments


class ScheduleArguments(TypedDict):
    """What a schedule is built from: T, its name, and the two ends of alpha."""

    max_timesteps: int
    alpha_schedule: str
    alpha_min: float
    alpha_max: float


def schedule_arguments(args: DiffusionArguments) -> ScheduleArguments:
    """What the options say of the schedule."""
    return {
        "max_timesteps": args.max_timesteps,
        "alpha_schedule": args.alpha_schedule,
        "alpha_min": args.alpha_min,
        "alpha_max": args.alpha_max,
    }


def build_likelihood(args: DiffusionArguments, causal_block_length: int | None = None) -> Likelihood:
    """The policy likelihood that the loss section describes; ``causal_block_length`` is that of a block-causal model,
    for the estimators that can score its blocks side by side."""
    estimator, arguments = ESTIMATORS[args.likelihood], args.likelihood_arguments
    if causal_block_length is not None and "causal_block_length" in signature(estimator).parameters:
        arguments = {**arguments, "causal_block_length": causal_block_length}
    return estimator(**arguments)


def build_loss(args: DiffusionArguments) -> TrajectoryNELBOLoss:
    """The bound that section loss describes, whatever its likelihood: what SFT minimises and measurements report."""
    if args.likelihood == "trajectory_nelbo":
        return TrajectoryNELBOLoss(**args.likelihood_arguments)
    return TrajectoryNELBOLoss(**schedule_arguments(args))


def build_masking(args: DiffusionArguments) -> MaskingStrategy:
    """The strategy that the masking section describes."""
    strategy = MASKING_STRATEGIES[args.masking_strategy_type]
    if issubclass(strategy, DiffusionMaskingStrategy):
        return strategy(args.p_mask_prompt, **schedule_arguments(args))
    return strategy(args.p_mask_prompt)


def build_synced(args: DiffusionArguments) -> tuple[TrajectoryNELBOLoss, MaskingStrategy]:
    """Bound and masking on one schedule."""
    loss, masking = build_loss(args), build_masking(args)
    sync_masking_with_nelbo(masking, loss)
    return loss, masking


def build_scheduled_sampling(args: DiffusionArguments) -> ScheduledSampling:
    """What the scheduled_sampling section describes; inactive unless asked for."""
    return ScheduledSampling(
        max_step_offset=args.scheduled_sampling_max_step_offset,
        probability=args.scheduled_sampling_probability,
        ramp_steps=args.scheduled_sampling_ramp_steps,
        prob_start=args.scheduled_sampling_prob_start,
        prob_end=args.scheduled_sampling_prob_end,
        start_step=args.scheduled_sampling_start_step,
        ramp_shape=args.scheduled_sampling_ramp_shape,
        strategy=args.scheduled_sampling_strategy,
        sampler=args.scheduled_sampling_sampler,
    )


def build_reflexflow(args: DiffusionArguments) -> ReflexFlow | None:
    """ReflexFlow's weights, or None where its losses are off."""
    if not args.reflexflow_on:
        return None
    return ReflexFlow(
        alpha=args.scheduled_sampling_reflexflow_alpha,
        beta1=args.scheduled_sampling_reflexflow_beta1,
        beta2=args.scheduled_sampling_reflexflow_beta2,
    )


def build_generator(
    args: DiffusionArguments,
    denoiser: Denoiser,
    schedule: AlphaSchedule,
    masking: MaskingStrategy,
    eos_id: EosIds,
    temperature: float | None = None,
) -> DiffusionGenerator | FlowGenerator:
    """The sampler that the generation section describes; ``temperature`` overrides it (evaluation)."""
    if args.prediction_type == "flow_matching":
        return FlowGenerator(
            cast(EmbeddingDenoiser, denoiser),  # as every denoiser of a policy is
            schedule,
            canvas_length=args.max_completion_length,
            solver=args.solver,
            noise_scale=args.flow_noise_scale,
            temperature=args.temperature if temperature is None else temperature,
            eos_id=eos_id,
        )
    return DiffusionGenerator(
        denoiser,
        schedule,
        masking,
        canvas_length=args.max_completion_length,
        block_length=args.block_length,
        sampler=args.sampler,
        selection=args.selection,
        solver=args.solver,
        temperature=args.temperature if temperature is None else temperature,
        eos_id=eos_id,
        threshold=args.threshold,
        entropy_bound=args.entropy_bound,
        cache=args.cache,
        cache_refresh=args.cache_refresh,
        counts=args.counts,
    )
