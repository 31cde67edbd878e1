"""A plan: from options, a model, machines and a budget to seconds a step, what fits into memory, and days.

Two times are given for everything: the best that the machine could do (roofline, communication hidden behind it), and
that at the assumed share of the roofline, with communication on top. What is real lies above the first.
"""

from dataclasses import dataclass

from trainers.benchmarking.steps import FULL
from trainers.planning.budgets import Budget
from trainers.planning.derived import (
    TRAINING,
    asked_strategy,
    blocks_of,
    compute_dtype,
    how_often,
    setup_of,
    shares_of,
)
from trainers.planning.machines import CPU, Machines
from trainers.planning.memory import FLOAT, HALF, Setup
from trainers.planning.models import Model
from trainers.planning.network import Passes, bytes_sent
from trainers.planning.phases import ROLLOUT, Meter, Often, Phase, phases_of
from trainers.planning.ways import Advice, Way, advise, choose, ways_of
from trainers.planning.work import Blocks, Lengths, Planned, Work, count_work
from trainers.settings.config import ExperimentConfig
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.options import ConfigError
from trainers.settings.sft import DiffusionSFTConfig
from trainers.settings.spreading import DDP, ONE


@dataclass(frozen=True)
class Plan:
    """What a run costs; seconds and flop of one optimiser step on one accelerator unless said otherwise.

    Attributes:
        model, machines, setup, lengths, budget: what was asked for.
        dtype: of products.
        work: what a process asks of its model.
        way: how the run is spread: as its options ask, else the first of ``ways`` that fits, else the smallest.
        ways: all of them, with and without an adapter.
        phases: parts of a step.
        sent: bytes that each process sends, by purpose.
        shares: of the roofline, assumed for the rollout and for the rest.
        completions: scored in a step by all processes together.
        advice: what would make it fit, if nothing does.
    """

    model: Model
    machines: Machines
    setup: Setup
    lengths: Lengths
    budget: Budget
    dtype: str
    work: Work
    way: Way
    ways: list[Way]
    phases: list[Phase]
    sent: dict[str, float]
    shares: dict[str, float]
    completions: int
    advice: Advice | None

    @property
    def communication(self) -> float:
        """Seconds, at least."""
        return sum(self.sent.values()) / self.machines.link

    def assumed_seconds(self, phase: Phase) -> float:
        """At the assumed share of the roofline."""
        return phase.seconds / self.shares[ROLLOUT if phase.name == ROLLOUT else TRAINING]

    @property
    def best(self) -> float:
        """Seconds of a step, at least."""
        return max(sum(phase.seconds for phase in self.phases), self.communication)

    @property
    def assumed(self) -> float:
        """Seconds of a step at the assumed shares."""
        return sum(map(self.assumed_seconds, self.phases)) + self.communication

    @property
    def flop(self) -> float:
        """Arithmetic of one optimiser step on each accelerator, all phases."""
        return sum(phase.flop for phase in self.phases)

    @property
    def mfu(self) -> float:
        """Arithmetic done, forwards that are made again included, as a share of the peak in the assumed time."""
        return self.flop / (self.assumed * self.machines.kind.flops[self.dtype])


def make_plan(
    config: ExperimentConfig,
    model: Model,
    machines: Machines,
    budget: Budget,
    lengths: Lengths,
    efficiency: float | None = None,
    evaluations: int | None = None,
) -> Plan:
    """Plan a run.

    Args:
        config: the run's options, checked for that many processes.
        model: what is trained.
        machines: on what.
        budget: for how long.
        lengths: of its texts.
        efficiency: share of the roofline that is reached; None: as measured.
        evaluations: of a completion by an adaptive sampler; None: the upper limit.

    Raises:
        ConfigError: options that no sampler or likelihood can follow.
    """
    args, blocks = config.training, blocks_of(config, model)
    dtype, mixed = compute_dtype(config, machines.kind.name == CPU)
    if not isinstance(args, ImprovedDiffuGRPOConfig | DiffusionSFTConfig):
        raise ConfigError(f"trainer={config.trainer!r}: expected grpo or sft, of which a plan knows what they do")
    setup = setup_of(config, mixed)
    work = _work(args, lengths, blocks, evaluations)
    ways = ways_of(model, setup, work, lengths, args, machines)
    asked, often = asked_strategy(args, machines.count), how_often(args, work)
    way = choose(ways, setup.trained, asked)
    short = not way.fits
    return Plan(
        model=model,
        machines=machines,
        setup=setup,
        lengths=lengths,
        budget=budget,
        dtype=dtype,
        work=work,
        way=way,
        ways=ways,
        phases=_phases(model, machines, setup, dtype, way, work, often),
        sent=bytes_sent(model, setup, _passes(work, often), way.strategy, machines.count),
        shares=shares_of(args, blocks, setup.trained, efficiency),
        completions=args.per_device_train_batch_size * args.gradient_accumulation_steps * machines.count,
        advice=advise(model, setup, args, lengths, machines, blocks, evaluations, asked) if short else None,
    )


def _work(args: Planned, lengths: Lengths, blocks: Blocks | None, evaluations: int | None) -> Work:
    try:
        return count_work(args, lengths, blocks, evaluations)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _passes(work: Work, often: Often) -> Passes:
    """How often the model is run in a step; forwards that are streamed count one by one."""
    forwards = work.scored.forwards
    return Passes(often.loss * forwards, (often.old + often.reference) * forwards, often.rollout)


def _phases(
    model: Model, machines: Machines, setup: Setup, dtype: str, way: Way, work: Work, often: Often
) -> list[Phase]:
    """The parts of a step on one of the machines, each of which holds all weights or its share of them."""
    shards = 1 if way.strategy in (ONE, DDP) else machines.count
    casts = setup.mixed and setup.itemsize > HALF and shards == 1
    meter = Meter(model, setup, machines.kind.peaks(dtype), casts)
    return phases_of(
        meter,
        work,
        often,
        streamed=work.scored.forwards > 1,
        trained=(model.weights if setup.trained == FULL else model.adapter) / shards,
        itemsize=setup.itemsize if setup.trained == FULL and shards == 1 else FLOAT,
    )
