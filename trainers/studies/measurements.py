"""What a model's denoising costs and brings on held-out problems: exposure bias, step counts, solvers.

Each measurement of a `Bench` is a table of numbers. Everything is measured on the same problems; masks and sampling
noise depend on the seed, the repetition and the place alone. Intervals are 95% intervals of a mean over problems,
clustered as in `trainers.evaluating.statistics`. Repetitions are averaged problem by problem first: they take out the
noise of sampling, not that of having few problems.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from statistics import fmean
from types import ModuleType
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from trl.data_utils import common_prefix_length

from core.flow import ODE_SOLVERS
from core.generator import DiffusionGenerator
from core.masking_strategy import MaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.sampling.solvers import SOLVERS
from core.scheduled_sampling import RollOut, ScheduledSampling, source_of
from core.scoring.likelihood import Draws
from trainers.collating import IGNORED, CanvasCollator
from trainers.distributed.randomness import generator_at
from trainers.evaluating.evaluation import Evaluator
from trainers.evaluating.statistics import Interval, clustered_mean, paired_difference
from trainers.models.policy import Policy
from trainers.settings.likelihood import LIKELIHOOD_OPTIONS
from trainers.settings.objects import build_generator
from trainers.settings.options import require
from trainers.settings.trainer import ConfigError, DiffusionArguments

FULL = "full"  # in place of a number of steps: as many as it takes to reveal one token at a time

Batch = tuple[Tensor, Tensor, Tensor]  # prompts (B, P), their mask, canvases (B, L)
Counts = Mapping[str, int | None]  # what was asked for -> number of steps; None where no number of steps does it


def steps_option(text: str) -> int | str:
    """A value of --steps: a number of steps, or `FULL`."""
    if text == FULL:
        return FULL
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of steps, at least 1, nor '{FULL}'")
    return int(text)


def at_least(least: int, text: str) -> int:
    """A whole number of a command line."""
    if not (text.isdecimal() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def sampling_arguments(args: DiffusionArguments, **changes: Any) -> DiffusionArguments:
    """The options that sampling and the bound read, with changes, checked; those of training are left behind."""
    kept = {
        declared.name: getattr(args, declared.name)
        for declared in fields(DiffusionArguments)
        if declared.metadata["section"] in ("generation", "loss", "masking")
    }
    if args.likelihood != "trajectory_nelbo":  # whatever the policy was trained on, measured is the bound
        other = {"likelihood", "trajectory_nelbo_loss", *LIKELIHOOD_OPTIONS}
        kept = {name: value for name, value in kept.items() if name not in other}
    changed = DiffusionArguments(**(kept | changes))
    changed.check_diffusion()
    return changed


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


# ---- what is found: rows of tables ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExposureRow:
    """The loss at clean states and at those that the model walked to over k timesteps, at equal masks.

    Attributes:
        offset: k; a state closer to T than that walked less, one at T not at all.
        walked: mean number of timesteps walked.
        clean, rolled_out: mean weighted loss at either kind of state, nats a completion.
        bias: their difference.
        clean_per_token, rolled_out_per_token, bias_per_token: the same in nats a token of the canvas.
        accuracy: share of the model's own visible tokens that are the data's; None where there are none.
    """

    HEADINGS: ClassVar = ("k", "walked", "clean", "rolled out", "bias", "a token", "right")

    offset: int
    walked: float
    clean: float
    rolled_out: float
    bias: Interval
    clean_per_token: float
    rolled_out_per_token: float
    bias_per_token: Interval
    accuracy: float | None

    def cells(self) -> list[str]:
        """The row as text, one a heading."""
        return [
            str(self.offset),
            f"{self.walked:.2f}",
            f"{self.clean:.2f} ({self.clean_per_token:.3f})",
            f"{self.rolled_out:.2f} ({self.rolled_out_per_token:.3f})",
            f"{self.bias.value:+.2f} [{self.bias.low:+.2f}, {self.bias.high:+.2f}]",
            f"{self.bias_per_token.value:+.3f}",
            "-" if self.accuracy is None else f"{self.accuracy:.1%}",
        ]


@dataclass(frozen=True)
class Decoding:
    """What one way to sample brings and costs.

    Attributes:
        accuracy: share of completions that are right by the strict parser.
        forwards: mean evaluations of the model a completion.
        seconds: wall time of one pass over the problems.
    """

    accuracy: Interval
    forwards: float
    seconds: float


@dataclass(frozen=True)
class StepsRow:
    """Accuracy and cost at a number of steps, sampled at the experiment's temperature and greedy."""

    HEADINGS: ClassVar = ("steps", "sampled", "forwards", "greedy", "forwards", "seconds")

    label: str  # as asked for, such as "full"
    steps: int
    sampled: Decoding
    greedy: Decoding

    def cells(self) -> list[str]:
        """The row as text, one a heading."""
        modes = (self.sampled, self.greedy)
        numbers = [text for mode in modes for text in (str(mode.accuracy), f"{mode.forwards:.2f}")]
        steps = f"{self.steps} ({self.label})" if self.label == FULL else self.label
        return [steps, *numbers, f"{sum(mode.seconds for mode in modes):.1f}"]


@dataclass(frozen=True)
class SolverRow:
    """Accuracy and cost of a solver at a number of steps, sampled at the experiment's temperature."""

    HEADINGS: ClassVar = ("forwards", "solver", "steps", "sampled", "seconds")

    solver: str
    steps: int
    sampled: Decoding

    def cells(self) -> list[str]:
        """The row as text, one a heading."""
        found = self.sampled
        return [f"{found.forwards:.2f}", self.solver, str(self.steps), str(found.accuracy), f"{found.seconds:.1f}"]


@dataclass(frozen=True)
class Measurement:
    """A table: rows of one kind, and notes on what the title does not say, or on why there are none."""

    title: str
    rows: Sequence[ExposureRow | StepsRow | SolverRow]
    notes: Sequence[str] = ()

    def describe(self) -> dict[str, Any]:
        """All numbers; JSON-serialisable."""
        return {"title": self.title, "rows": [asdict(row) for row in self.rows], "notes": list(self.notes)}


# ---- how it is found ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A policy, the problems it is measured on, and how its experiment samples.

    Args:
        args: generation, loss, masking and scheduled_sampling options.
        policy: the model.
        task: module of `trainers.tasks`.
        problems: rows with prompt, completion, answer and cluster.
        seed: of masks and sampling noise.
        repeats: how often whatever is drawn is drawn anew.
        batch_size: problems at a time.
    """

    args: DiffusionArguments
    policy: Policy
    task: ModuleType
    problems: Dataset
    seed: int
    repeats: int = 1
    batch_size: int = 128

    @property
    def flows(self) -> bool:
        """Whether completions come from an ODE over embeddings."""
        return self.args.prediction_type == "flow_matching"

    # ---- exposure bias

    def exposure(self, offsets: Iterable[int]) -> Measurement:
        """The loss of the reference completions at clean states and, at equal masks, at those k timesteps walked to.

        Raises:
            ConfigError: completions that are longer than the canvas, or masks without timesteps.
        """
        solver = self.args.scheduled_sampling_sampler
        steps = f"k of {self.args.max_timesteps} steps walked with {solver}"
        title = f"exposure bias in nats (a token), {steps}, own tokens right"
        if self.flows:
            return Measurement(title, [], ["exposure is left out: a flow hides no tokens, so no two masks are equal"])
        args = sampling_arguments(self.args, nelbo_source="forward")
        loss, masking = build_synced(args)
        denoiser, noised = self.policy.denoiser(), list(self._noised(loss, masking))
        clean = self._losses(loss, noised)
        rows = []
        for offset in dict.fromkeys(offsets):
            walk, rollouts = FixedOffset(offset, solver), []
            for i, (batch, draws) in enumerate(noised):
                noise = generator_at(self.seed, "exposure", "walk", offset, i, device=batch[0].device)
                rollouts.append(walk.roll_out(denoiser, masking, *batch, draws, 0, noise, args.temperature))
            moved = [(batch, rollout.draws) for (batch, _), rollout in zip(noised, rollouts, strict=True)]
            rows.append(self._exposure_row(offset, clean, self._losses(loss, moved), rollouts))
        return Measurement(title, rows)

    def _exposure_row(
        self, offset: int, clean: list[float], rolled_out: list[float], rollouts: list[RollOut]
    ) -> ExposureRow:
        """From the losses of each problem and what the walks did."""
        bias, length = paired_difference(clean, rolled_out, self.problems["cluster"]), self.args.max_completion_length
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

    def _noised(self, loss: TrajectoryNELBOLoss, masking: MaskingStrategy) -> Iterator[tuple[Batch, Draws]]:
        """Every batch of references with the states it is noised to, once a repetition."""
        batches = list(self._references())
        for repeat in range(self.repeats):
            for i, batch in enumerate(batches):
                prompt_ids, _, ids = batch
                noise = generator_at(self.seed, "exposure", "masks", repeat, i)
                yield batch, loss.draw(masking, *ids.shape, prompt_ids.size(1), noise, ids.device)

    def _losses(self, loss: TrajectoryNELBOLoss, states: Iterable[tuple[Batch, Draws]]) -> list[float]:
        """The weighted loss of each problem, nats a completion, averaged over the repetitions."""
        denoiser, temperature = self.policy.denoiser(), self.args.temperature
        with denoiser.evaluating():
            parts = [loss.score(denoiser, *batch, draws, temperature).sequence_bound for batch, draws in states]
        return torch.cat(parts).double().view(self.repeats, -1).mean(dim=0).tolist()

    def _references(self) -> Iterator[Batch]:
        """Prompts and reference canvases as in training: tokenised together, EOS in the tail."""
        tokenizer, length = self.policy.tokenizer, self.args.max_completion_length
        texts = zip(self.problems["prompt"], self.problems["completion"], strict=True)
        prompts = tokenizer(list(self.problems["prompt"]))["input_ids"]
        wholes = tokenizer([prompt + completion + tokenizer.eos_token for prompt, completion in texts])["input_ids"]
        rows = []
        for prompt, whole in zip(prompts, wholes, strict=True):
            start = common_prefix_length(prompt, whole)
            rows.append({"input_ids": whole, "labels": [IGNORED] * start + whole[start:]})
        longest = max(sum(label != IGNORED for label in row["labels"]) for row in rows)
        if longest > length:
            raise ConfigError(
                f"generation.max_completion_length={length}: the longest reference has {longest} tokens with its EOS; "
                "exposure needs them on the canvas (--tables steps solvers does without)"
            )
        collate = CanvasCollator(length, tokenizer.pad_token_id, tokenizer.eos_token_id)
        for start in range(0, len(rows), self.batch_size):
            batch = collate(rows[start : start + self.batch_size])
            parts = (
                batch[key].to(self.policy.model.device) for key in ("prompt_ids", "prompt_mask", "completion_ids")
            )
            yield next(parts), next(parts), next(parts)

    # ---- steps and solvers

    def steps(self, counts: Counts) -> Measurement:
        """Accuracy and cost by number of steps: of count-matched sampling, or of a flow with its own solver."""
        method = f"ODE with {self.args.solver}" if self.flows else f"count-matched sampling by {self.args.selection}"
        rows, notes = [], []
        for label, steps in counts.items():
            if steps is None:
                notes.append(f"{label} is left out: {self._why_never()}")
                continue
            args = self._counted(steps)
            sampled, greedy = self._decode(args, self.args.temperature, self.repeats), self._decode(args, 0.0, 1)
            rows.append(StepsRow(label, steps, sampled, greedy))
        return Measurement(f"accuracy by number of steps: {method}", rows, notes)

    def solvers(self, counts: Counts) -> Measurement:
        """Accuracy and cost of every solver at several numbers of steps, cheap ones first."""
        rows = [
            SolverRow(solver, steps, self._decode(self._solved(steps, solver), self.args.temperature, self.repeats))
            for steps in sorted({steps for steps in counts.values() if steps is not None})
            for solver in (ODE_SOLVERS if self.flows else SOLVERS)
        ]
        rows.sort(key=lambda row: row.sampled.forwards)
        method = "ODE" if self.flows else "ancestral sampling"
        return Measurement(f"accuracy by forwards: {method} with each solver", rows)

    def counts(self, asked: Iterable[int | str]) -> Counts:
        """The numbers of steps behind the values of --steps.

        Raises:
            ConfigError: a number of steps that the generation section does not admit.
        """
        counts = {str(steps): self._full() if steps == FULL else int(steps) for steps in asked}
        for steps in counts.values():
            if steps is not None:
                self._counted(steps)
        return counts

    def _full(self) -> int | None:
        """The fewest steps, of (number of blocks) * 2^n, at which no count-matched transition reveals two tokens."""
        if self.flows:
            return None
        length = self.args.max_completion_length
        steps = length // (self.args.block_length or length)
        while True:
            revealed = self._revealed(steps)
            if max(revealed) <= 1:
                return steps
            if max(revealed[0], revealed[-1]) > 1:  # the closing transitions are the same at every number of steps
                return None
            steps *= 2

    def _revealed(self, steps: int) -> list[int]:
        """Tokens that each transition of a block reveals in count-matched sampling."""
        args = self._counted(steps)
        loss, masking = build_synced(args)
        sampler = build_generator(
            args, self.policy.denoiser(), loss.schedule, masking, self.policy.tokenizer.eos_token_id
        )
        assert isinstance(sampler, DiffusionGenerator)
        left = [sampler.masked_at(t) for t in sampler.grid()]
        return [before - after for before, after in pairwise(left)]

    def _why_never(self) -> str:
        if self.flows:
            return "a flow moves all tokens at once"
        ends = f"alpha_min={self.args.alpha_min}, alpha_max={self.args.alpha_max}"
        return f"with {ends} the closing steps reveal several tokens at once, however many steps there are"

    def _counted(self, steps: int) -> DiffusionArguments:
        """Count-matched sampling in so many steps; a flow keeps its solver."""
        changes = {} if self.flows else {"sampler": "count_matched", "solver": "euler"}
        return sampling_arguments(self.args, max_timesteps=steps, **changes)

    def _solved(self, steps: int, solver: str) -> DiffusionArguments:
        """Ancestral sampling, or the flow, with a solver in so many steps."""
        timed = self.args.masking_strategy_type == "diffusion"
        require(self.args, "masking_strategy_type", timed, "'diffusion' for the solvers: they step by timestep")
        changes = {} if self.flows else {"sampler": "ancestral"}
        return sampling_arguments(self.args, max_timesteps=steps, solver=solver, **changes)

    def _decode(self, args: DiffusionArguments, temperature: float, repeats: int) -> Decoding:
        """Sample and judge every problem, with other noise in every repetition."""
        loss, masking = build_synced(args)
        runs = []
        for repeat in range(repeats):
            seed = self.seed + repeat
            evaluator = Evaluator(args, loss.schedule, masking, self.task, self.problems, seed, self.batch_size)
            runs.append(evaluator.run(self.policy, temperature))
        right = [fmean(verdicts) for verdicts in zip(*(run.strict for run in runs), strict=True)]  # (problems,)
        return Decoding(
            accuracy=clustered_mean(right, runs[0].clusters),
            forwards=fmean(run.forwards for run in runs),
            seconds=fmean(run.seconds for run in runs),
        )
