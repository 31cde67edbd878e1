"""Exposure bias: the loss at states that the model walked to, against clean states with the same masks.

A *clean* state shows the reference under a mask; a *rolled-out* one was walked to by the model, over k timesteps.
"""

from collections.abc import Iterable, Iterator
from statistics import fmean

import torch
from torch import Tensor

from core.masking_strategy import MaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.scheduled_sampling import RollOut, ScheduledSampling, source_of
from core.scoring import Draws
from trainers.collating import IGNORED, CanvasCollator
from trainers.distributed.randomness import generator_at
from trainers.evaluating.statistics import Interval, paired_difference
from trainers.settings.objects import build_synced
from trainers.settings.options import ConfigError
from trainers.studies.measurements.bench import Bench
from trainers.studies.measurements.options import sampling_arguments
from trainers.studies.measurements.rows import ExposureRow, Measurement

Batch = tuple[Tensor, Tensor, Tensor]  # prompts (B, P), their mask, canvases (B, L)


class FixedOffset(ScheduledSampling):
    """Every sequence is rolled out over the same number of timesteps, as far as T allows.

    Overrides `draw_sources`: training draws the offset, a measurement sets it.
    """

    def __init__(self, offset: int, sampler: str):
        super().__init__(max_step_offset=offset, probability=1.0, sampler=sampler)

    def draw_sources(
        self, timestep: Tensor, max_timesteps: int, step: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The timestep t + k of each state, (B, M), and that every sequence is rolled out, (B,)."""
        everyone = torch.ones_like(timestep[:, 0], dtype=torch.bool)
        return source_of(timestep, self.max_step_offset, max_timesteps), everyone


def measure_exposure(bench: Bench, offsets: Iterable[int]) -> Measurement:
    """The loss of the reference completions at clean states and, at equal masks, at those k timesteps walked to.

    Raises:
        ConfigError: completions that are longer than the canvas, or masks without timesteps.
    """
    solver = bench.args.scheduled_sampling_sampler
    steps = f"k of {bench.args.max_timesteps} steps walked with {solver}"
    title = f"exposure bias in nats (a token), {steps}, own tokens right"
    if bench.flows:
        return Measurement(title, [], ["exposure is left out: a flow hides no tokens, so no two masks are equal"])
    args = sampling_arguments(bench.args, nelbo_source="forward")
    loss, masking = build_synced(args)
    denoiser, noised = bench.policy.denoiser(), list(noised_references(bench, loss, masking))
    clean = losses(bench, loss, noised)
    rows = []
    for offset in dict.fromkeys(offsets):
        walk, rollouts = FixedOffset(offset, solver), []
        for i, ((ids, mask, canvas), draws) in enumerate(noised):
            noise = generator_at(bench.seed, "exposure", "walk", offset, i, device=ids.device)
            rollouts.append(walk.roll_out(denoiser, masking, ids, mask, canvas, draws, 0, noise, args.temperature))
        moved = [(batch, rollout.draws) for (batch, _), rollout in zip(noised, rollouts, strict=True)]
        rows.append(_exposure_row(bench, offset, clean, losses(bench, loss, moved), rollouts))
    return Measurement(title, rows)


def _exposure_row(
    bench: Bench, offset: int, clean: list[float], rolled_out: list[float], rollouts: list[RollOut]
) -> ExposureRow:
    """From the losses of each problem and what the walks did."""
    bias, length = paired_difference(clean, rolled_out, bench.problems["cluster"]), bench.args.max_completion_length
    own, wrong = (sum(int(getattr(r, name).sum()) for r in rollouts) for name in ("self_revealed", "wrong"))
    return ExposureRow(
        offset=offset,
        walked=torch.cat([rollout.offset for rollout in rollouts]).double().mean().item(),
        clean=fmean(clean),
        rolled_out=fmean(rolled_out),
        bias=bias,
        clean_per_token=fmean(clean) / length,
        rolled_out_per_token=fmean(rolled_out) / length,
        bias_per_token=Interval(bias.value / length, bias.low / length, bias.high / length),
        accuracy=1 - wrong / own if own else None,
    )


def noised_references(
    bench: Bench, loss: TrajectoryNELBOLoss, masking: MaskingStrategy
) -> Iterator[tuple[Batch, Draws]]:
    """Every batch of references with the states it is noised to, once a repetition."""
    batches = list(references(bench))
    for repeat in range(bench.repeats):
        for i, batch in enumerate(batches):
            prompt_ids, _, ids = batch
            rows, length = ids.shape
            noise = generator_at(bench.seed, "exposure", "masks", repeat, i)
            yield batch, loss.draw(masking, rows, length, prompt_ids.size(1), noise, ids.device)


def losses(bench: Bench, loss: TrajectoryNELBOLoss, states: Iterable[tuple[Batch, Draws]]) -> list[float]:
    """The weighted loss of each problem, nats a completion, averaged over the repetitions."""
    denoiser, temperature = bench.policy.denoiser(), bench.args.temperature
    with denoiser.evaluating():
        parts = [loss.score(denoiser, *batch, draws, temperature).sequence_bound for batch, draws in states]
    return torch.cat(parts).double().view(bench.repeats, -1).mean(dim=0).tolist()


def references(bench: Bench) -> Iterator[Batch]:
    """Prompts and reference canvases as in training: tokenised together, EOS in the tail."""
    length = bench.args.max_completion_length
    rows = _labelled(bench)
    longest = max(sum(label != IGNORED for label in row["labels"]) for row in rows)
    if longest > length:
        raise ConfigError(
            f"generation.max_completion_length={length}: the longest reference has {longest} tokens with its EOS; "
            "exposure needs them on the canvas (--tables steps solvers does without)"
        )
    collate = CanvasCollator(length, bench.policy.pad_id, bench.policy.eos_id)
    for start in range(0, len(rows), bench.batch_size):
        batch = collate(rows[start : start + bench.batch_size])
        parts = (batch[key].to(bench.policy.model.device) for key in ("prompt_ids", "prompt_mask", "completion_ids"))
        yield next(parts), next(parts), next(parts)


def _labelled(bench: Bench) -> list[dict[str, list[int]]]:
    """Prompt and reference of each problem as one text of tokens, with the prompt's ignored as labels."""
    join, tokenizer = bench.policy.format.join, bench.policy.tokenizer
    texts = zip(bench.problems["prompt"], bench.problems["completion"], strict=True)
    joined = [join(tokenizer, *text) for text in texts]
    return [
        {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}
        for prompt, completion in joined
    ]
