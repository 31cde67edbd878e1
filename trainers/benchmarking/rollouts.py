"""Generators side by side on the same weights and prompts: what they ask of the model, how long it takes, and whether
they write the same text."""

import importlib
import inspect
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
import yaml
from torch import Tensor

from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from core.trajectory import tokens_to_first_eos
from trainers.benchmarking.counters import Calls, watch
from trainers.benchmarking.memory import peak_memory
from trainers.benchmarking.peers import PEERS, Generator, RolloutConfig
from trainers.benchmarking.roofline import Costs, PeakMeter, seconds
from trainers.benchmarking.tables import Spread, mebibytes, share
from trainers.models.policy import Policy
from trainers.settings.model import ATTENTIONS
from trainers.settings.options import ConfigError

OURS = "ours"
# LLaDA's law, so that greedy text can be compared: uniform counts are the linear schedule from 0 to 1. Its counts are
# ours in every step that commits anything where the steps of a block divide its length or are at least as many.
LLADA_SCHEDULE = {"alpha_schedule": "linear", "alpha_min": 0.0, "alpha_max": 1.0}
LLADA_SAMPLER = {"sampler": "count_matched", "selection": "low_confidence"}
ATTENTION = "attention"  # of `model.attention`: lets the same weights run as a block-causal model
WORK = ("canvas_length", "block_length", "steps", "temperature")  # of `RolloutConfig`, what a contender may set anew


@dataclass(frozen=True)
class Contender:
    """A generator under the name that its row carries; prompts (B, P) to completions (B, L)."""

    name: str
    run: Callable[[Tensor], Tensor]


def contender(spec: str, policy: Policy, config: RolloutConfig) -> Contender:
    """The generator that a word of the command line names.

    Args:
        spec: ``ours``, a key of `PEERS` or ``module:function``, then ``:key=value,key=value`` if it is to differ from
            ``config`` (`WORK`); ``ours`` also takes the keywords of schedule and generator, and ``attention``.
        policy: the model.
        config: what all are asked for.

    Raises:
        ConfigError: an unknown name, keyword or value.
    """
    name, settings = _parse(spec)
    work = {key: settings.pop(key) for key in WORK if key in settings}
    config = replace(config, **work)
    if name == OURS:
        return Contender(spec, _ours(spec, policy, config, settings))
    if settings:
        raise ConfigError(f"--generators {spec}: unknown {next(iter(settings))!r}; known: {', '.join(WORK)}")
    generate = PEERS[name] if name in PEERS else _import(name)
    return Contender(spec, lambda prompt_ids: generate(policy.model, prompt_ids, config)[:, -config.canvas_length :])


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    """``name:key=value,...`` as the name and the settings, numbers and booleans as YAML reads them."""
    name, _, last = spec.rpartition(":")
    if "=" not in last:
        return spec, {}
    pairs = [part.partition("=") for part in last.split(",")]
    return name, {key: yaml.safe_load(value) for key, _, value in pairs}


def _import(spec: str) -> Generator:
    module, _, function = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, ValueError, AttributeError) as error:
        known = ", ".join((OURS, *PEERS))
        raise ConfigError(f"--generators {spec}: expected {known} or module:function: {error}") from error


def _ours(spec: str, policy: Policy, config: RolloutConfig, settings: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """`DiffusionGenerator`, by default under LLaDA's law."""
    keywords = set(inspect.signature(DiffusionGenerator).parameters) - {"denoiser", "schedule", "masking", "eos_id"}
    known = sorted({*keywords, *LLADA_SCHEDULE, *WORK, ATTENTION})
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ConfigError(f"--generators {spec}: unknown {unknown[0]!r}; known: {', '.join(known)}")
    attention = settings.pop(ATTENTION, ATTENTIONS[0])
    if attention not in ATTENTIONS:
        raise ConfigError(f"--generators {spec}: attention={attention!r}: expected one of {', '.join(ATTENTIONS)}")
    ids = torch.zeros(1, 2, dtype=torch.int64, device=policy.model.device)
    with torch.no_grad():
        policy.denoiser().logits(ids, None, ids == 0)  # it looks at a model once, which is no part of a rollout
    if attention == "block_causal":
        policy = replace(policy, block_length=config.block_length)
    levels = {key: settings.pop(key, default) for key, default in LLADA_SCHEDULE.items()}
    try:
        masking = DiffusionMaskingStrategy(0.0, config.steps, **levels)
        generator = DiffusionGenerator(
            policy.denoiser(),
            masking.schedule,
            masking,
            canvas_length=config.canvas_length,
            block_length=config.block_length,
            temperature=config.temperature,
            eos_id=config.eos_id,
            **(LLADA_SAMPLER | settings),
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--generators {spec}: {error}") from error

    def run(prompt_ids: Tensor) -> Tensor:
        noise = torch.Generator(prompt_ids.device).manual_seed(config.seed)
        return generator.generate(prompt_ids, (prompt_ids != config.pad_id).long(), noise).ids

    return run


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


@dataclass(frozen=True)
class _Trial:
    """What the untimed run of a contender gave."""

    ids: Tensor
    calls: Calls
    peak_bytes: int | None


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
    device, model = prompt_ids.device, policy.model
    trials = [_try(each, policy, prompt_ids, memory) for each in contenders]
    taken: list[list[float]] = [[] for _ in contenders]
    for _ in range(repeats):
        peaks.measure()
        for each, times in zip(contenders, taken, strict=True):
            times.append(seconds(lambda each=each: each.run(prompt_ids), device))

    costs = Costs(model.config, model.dtype.itemsize)
    rows = []
    for each, trial, times in zip(contenders, trials, taken, strict=True):
        lengths = tokens_to_first_eos(trial.ids, config.eos_id)
        in_text = torch.arange(trial.ids.size(1), device=device) < lengths.unsqueeze(1)
        rows.append(
            Rollout(
                generator=each.name,
                vocabulary=model.config.vocab_size,
                batch_size=prompt_ids.size(0),
                lengths=lengths.tolist(),
                canvas_tokens=trial.ids.numel(),
                calls=trial.calls,
                costs=costs,
                peaks=peaks,
                seconds=times,
                speed=Spread.of([first / own for first, own in zip(taken[0], times, strict=True)]),
                peak_bytes=trial.peak_bytes,
                same_text=same_text(trials[0].ids, trial.ids, config.eos_id) if config.temperature == 0 else None,
                masks_left=int(((trial.ids == config.mask_id) & in_text).sum()),
            )
        )
    return rows


def _try(each: Contender, policy: Policy, prompt_ids: Tensor, memory: bool) -> _Trial:
    found: list[Tensor] = []
    with watch(policy.model) as calls:

        def run() -> None:
            found.append(each.run(prompt_ids))

        peak = peak_memory(run, prompt_ids.device) if memory else run()
    return _Trial(found[0], calls, peak)


def same_text(expected: Tensor, ids: Tensor, eos_id: int) -> float:
    """Share of rows that are equal up to and including the first EOS; canvases may differ in length."""
    ends = tokens_to_first_eos(expected, eos_id), tokens_to_first_eos(ids, eos_id)
    rows = zip(expected.tolist(), ids.tolist(), *(end.tolist() for end in ends), strict=True)
    return statistics.mean(a[:end] == b[:stop] for a, b, end, stop in rows)
