"""Generators side by side on the same weights and prompts: what they ask of the model, how long it takes, and whether
they write the same text."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.trajectory import tokens_to_first_eos
from trainers.benchmarking.contenders import Contender
from trainers.benchmarking.counters import Calls, watch
from trainers.benchmarking.memory import peak_memory
from trainers.benchmarking.peers import RolloutConfig
from trainers.benchmarking.roofline import Costs, PeakMeter, seconds
from trainers.benchmarking.tables import Spread, mebibytes, share
from trainers.models.policy import Policy


@dataclass(frozen=True)
class Rollout:
    """One contender's row. Tokens are those up to and including the first EOS, unless said otherwise.

    Attributes:
        generator: its name.
        vocabulary, batch_size: V, B.
        lengths: tokens of each sequence.
        canvas_tokens: positions of all canvases.
        calls: what the model was asked.
        costs: what such calls cost on this model.
        peaks: what the machine can do.
        seconds: of each repeat.
        speed: times as fast as the first contender, repeat by repeat.
        peak_bytes: memory beyond the weights; None: not measured.
        same_text: share of sequences with the first contender's text; None: sampled, so not comparable.
        masks_left: mask tokens in the text.
    """

    generator: str
    vocabulary: int
    batch_size: int
    lengths: list[int]
    canvas_tokens: int
    calls: Calls
    costs: Costs
    peaks: PeakMeter
    seconds: list[float]
    speed: Spread
    peak_bytes: int | None
    same_text: float | None
    masks_left: int

    HEADINGS: ClassVar[tuple[str, ...]] = (
        "generator", "V", "B", "tokens/s", "canvas tokens/s", "x first", "tokens/forward", "forwards/sequence",
        "positions/token", "head rows/token", "peak MiB", "MFU", "of roofline", "same text",
    )  # fmt: skip

    @property
    def tokens(self) -> int:
        """Tokens of all sequences, up to and including the first EOS."""
        return sum(self.lengths)

    @property
    def mfu(self) -> float:
        """Share of the measured matrix-product rate that went into the model."""
        return self.costs.flop(self.calls) / (statistics.median(self.seconds) * self.peaks.best.flops)

    @property
    def roofline(self) -> float:
        """Share of its own roofline: the least time for these calls over the time taken."""
        return self.costs.attainable(self.calls, self.peaks.best) / statistics.median(self.seconds)

    def cells(self) -> list[str]:
        """The row as text under `HEADINGS`: rates a second, counts a token or a sequence, MiB, shares in percent."""
        taken = Spread.of(self.seconds)
        return [
            self.generator,
            str(self.vocabulary),
            str(self.batch_size),
            taken.rate(self.tokens),
            f"{self.canvas_tokens / taken.median:.1f}",
            str(self.speed),
            f"{self.tokens / self.calls.row_forwards:.2f}",
            f"{self.calls.row_forwards / self.batch_size:.1f}",
            f"{self.calls.positions / self.tokens:.0f}",
            f"{self.calls.head_rows / self.tokens:.1f}",
            mebibytes(self.peak_bytes),
            share(self.mfu),
            share(self.roofline),
            share(self.same_text) + (f", {self.masks_left} masks left" if self.masks_left else ""),
        ]

    def describe(self) -> dict[str, Any]:
        """The row for results.json."""
        records = ("calls", "costs", "peaks", "speed")
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in records}
        counts = {name: getattr(self.calls, name) for name in ("forwards", "row_forwards", "positions", "head_rows")}
        rates = {
            "tokens": self.tokens,
            "flop": self.costs.flop(self.calls),
            "mfu": self.mfu,
            "roofline": self.roofline,
        }
        return {**plain, **counts, **rates, "speed": vars(self.speed)}


def compare_rollouts(
    policy: Policy,
    contenders: Sequence[Contender],
    prompt_ids: Tensor,
    config: RolloutConfig,
    peaks: PeakMeter,
    repeats: int,
    memory: bool,
) -> list[Rollout]:
    """Run every contender once untimed, for its text, calls and memory (and to warm up), then ``repeats`` times by
    turns.

    Args:
        policy: the model.
        contenders: the first is the one that the others are compared with.
        prompt_ids: (B, P), on the model's device.
        config: what they were asked for.
        peaks: of this machine; measured again in each round.
        repeats: timed runs of each.
        memory: whether to measure memory, which slows a CPU's untimed run down.
    """
    trials = [_try(each, policy, prompt_ids, memory) for each in contenders]
    taken: list[list[float]] = [[] for _ in contenders]
    for _ in range(repeats):
        peaks.measure()
        for each, times in zip(contenders, taken, strict=True):
            times.append(seconds(lambda each=each: each.run(prompt_ids), prompt_ids.device))
    return [
        _row(policy, config, each, trial, trials[0], peaks, times, taken[0])
        for each, trial, times in zip(contenders, trials, taken, strict=True)
    ]


@dataclass(frozen=True)
class _Trial:
    """What the untimed run of a contender gave."""

    ids: Tensor
    calls: Calls
    peak_bytes: int | None


def _try(each: Contender, policy: Policy, prompt_ids: Tensor, memory: bool) -> _Trial:
    found: list[Tensor] = []
    with watch(policy.model) as calls:

        def run() -> None:
            found.append(each.run(prompt_ids))

        peak = peak_memory(run, prompt_ids.device) if memory else run()
    return _Trial(found[0], calls, peak)


def _row(
    policy: Policy,
    config: RolloutConfig,
    each: Contender,
    trial: _Trial,
    first: _Trial,
    peaks: PeakMeter,
    times: list[float],
    first_times: list[float],
) -> Rollout:
    """One contender's row, beside the ``first`` contender's text and times."""
    model, lengths = policy.model, tokens_to_first_eos(trial.ids, config.eos_id)
    in_text = torch.arange(trial.ids.size(1), device=trial.ids.device) < lengths.unsqueeze(1)
    return Rollout(
        generator=each.name,
        vocabulary=model.config.vocab_size,
        batch_size=trial.ids.size(0),
        lengths=lengths.tolist(),
        canvas_tokens=trial.ids.numel(),
        calls=trial.calls,
        costs=Costs(model.config, model.dtype.itemsize),
        peaks=peaks,
        seconds=times,
        speed=Spread.of([base / own for base, own in zip(first_times, times, strict=True)]),
        peak_bytes=trial.peak_bytes,
        same_text=same_text(first.ids, trial.ids, config.eos_id) if config.temperature == 0 else None,
        masks_left=int(((trial.ids == config.mask_id) & in_text).sum()),
    )


def same_text(expected: Tensor, ids: Tensor, eos_id: int) -> float:
    """Share of rows that are equal up to and including the first EOS; canvases may differ in length."""
    ends = tokens_to_first_eos(expected, eos_id), tokens_to_first_eos(ids, eos_id)
    rows = zip(expected.tolist(), ids.tolist(), *(end.tolist() for end in ends), strict=True)
    return statistics.mean(a[:end] == b[:stop] for a, b, end, stop in rows)
