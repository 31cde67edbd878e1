"""Ways of spreading a run over processes: which strategy fits into memory, and what would make one fit."""

import copy
from dataclasses import dataclass, replace

from trainers.benchmarking.steps import FULL, LORA
from trainers.planning.machines import Machines
from trainers.planning.memory import STRATEGIES, Memory, Setup, memory_of, transient_of
from trainers.planning.models import Model
from trainers.planning.work import Blocks, Lengths, Planned, Work, count_work
from trainers.settings.options import ConfigError
from trainers.settings.spreading import IN_PARTS, ONE, check_spread

FEW_ROWS = 8  # of a rollout's batch, where memory is short


@dataclass(frozen=True)
class Way:
    """One way of spreading a run over processes.

    Attributes:
        trained: `FULL` or `LORA`.
        strategy: one of `STRATEGIES`, or `ONE`.
        memory: of each process.
        refused: why the trainer does not take these options under this strategy; None: it does.
        fits: whether it does, and the memory is enough.
    """

    trained: str
    strategy: str
    memory: Memory
    refused: str | None
    fits: bool


@dataclass(frozen=True)
class Advice:
    """What would make a run fit.

    Attributes:
        text: in words.
        way: how it would be spread; None: nothing fits.
        options: to be added.
    """

    text: str
    way: Way | None
    options: tuple[str, ...] = ()


def ways_of(model: Model, setup: Setup, work: Work, lengths: Lengths, args: Planned, machines: Machines) -> list[Way]:
    """Every strategy, with all weights trained and with an adapter."""
    strategies = STRATEGIES if machines.count > 1 else (ONE,)
    length = lengths.longest + args.max_completion_length
    ways = []
    for trained in (FULL, LORA):
        own = replace(setup, trained=trained)
        transient = transient_of(model, own, work, length / (lengths.prompt + args.max_completion_length))
        for strategy in strategies:
            memory = memory_of(model, own, transient, strategy, machines.count)
            fits = memory.fits(machines.kind.memory)
            reason = why_refused(model, own, args, strategy)
            ways.append(Way(trained, strategy, memory, reason, reason is None and fits))
    return ways


def why_refused(model: Model, setup: Setup, args: Planned, strategy: str) -> str | None:
    """What `trainers.distributed.sharding` would say of these options; None: nothing."""
    try:
        check_spread(args, strategy)
    except ConfigError as error:
        return str(error)
    if strategy in IN_PARTS and model.ignores_padding:
        return "model.code=remote: this code ignores attention masks, and runs rows of every length apart"
    if strategy in IN_PARTS and setup.quantised:
        return "model.load_in_4bit=True: expected weights that are not quantised"
    if setup.trained == FULL and setup.quantised:
        return "model.load_in_4bit=True: only with model.use_peft=true"
    return None


def choose(ways: list[Way], trained: str, asked: str | None = None) -> Way:
    """The first way of training what was asked for that fits; else the smallest that the trainer takes.

    Args:
        ways: all of them.
        trained: `FULL` or `LORA`.
        asked: the strategy that the options name; None: any.

    Raises:
        ConfigError: the trainer refuses these options in every way, or under the strategy that they name.
    """
    own = [way for way in ways if way.trained == trained and asked in (None, way.strategy)]
    taken = [way for way in own if way.refused is None]
    if not taken:
        raise ConfigError(str(own[0].refused))
    return next((way for way in taken if way.fits), min(taken, key=lambda way: way.memory.peak))


def advise(
    model: Model,
    setup: Setup,
    args: Planned,
    lengths: Lengths,
    machines: Machines,
    blocks: Blocks | None,
    evaluations: int | None,
    asked: str | None,
) -> Advice:
    """What saves memory and costs time: the first that makes the run fit, at last by training less of it."""
    args, setup = copy.copy(args), replace(setup, checkpointed=True)
    rows = min(FEW_ROWS, args.rollout_batch_size or args.per_device_train_batch_size)
    args.gradient_checkpointing, args.rollout_batch_size, args.memory_budget_gib = True, rows, None
    saving = ("--training.gradient_checkpointing", "true", "--generation.batch_size", str(rows))
    tried: list[tuple[Way, tuple[str, ...]]] = []
    for group, options in ((None, saving), (1, (*saving, "--loss.states_per_forward", "1"))):
        args.states_per_forward = group
        work = count_work(args, lengths, blocks, evaluations)
        ways = ways_of(model, setup, work, lengths, args, machines)
        tried += [(way, options) for way in ways if way.refused is None and asked in (None, way.strategy)]
    for way, options in sorted(tried, key=lambda pair: pair[0].trained != setup.trained):
        if way.fits:
            if way.trained != setup.trained:
                options = (*options, "--model.use_peft", str(way.trained == LORA).lower())
            return Advice(f"it would under {way.strategy} with {' '.join(options)}", way, options)
    least, options = min(tried, key=lambda pair: pair[0].memory.peak)
    return Advice(
        f"nothing fits, not even {least.trained} under {least.strategy} with {' '.join(options)}: "
        f"{least.memory.peak / 1e9:.2g} GB of {machines.kind.memory / 1e9:.2g} GB; take more or larger accelerators, "
        "or --model.dtype bfloat16",
        None,
    )
