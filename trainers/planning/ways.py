"""Ways of spreading a run over processes: which strategy fits into memory, and what would make one fit."""

import copy
from dataclasses import dataclass, replace

from trainers.benchmarking.steps import FULL, LORA
from trainers.planning.machines import Machines
from trainers.planning.memory import DDP, ONE, STRATEGIES, ZERO2, Memory, Setup, memory_of, transient_of
from trainers.planning.models import Model
from trainers.planning.work import Blocks, Lengths, Planned, Work, count_work

FEW_ROWS = 8  # of a rollout's batch, where memory is short


@dataclass(frozen=True)
class Way:
    """One way of spreading a run over processes.

    Attributes:
        trained: `FULL` or `LORA`.
        strategy: one of `STRATEGIES`, or `ONE`.
        memory: of each process.
        allowed: whether the trainer takes these options under this strategy.
        fits: whether it does, and the memory is enough.
    """

    trained: str
    strategy: str
    memory: Memory
    allowed: bool
    fits: bool


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
            taken = allowed(args, strategy)
            ways.append(Way(trained, strategy, memory, taken, taken and fits))
    return ways


def allowed(args: Planned, strategy: str) -> bool:
    """Whether the trainer takes these options: what `trainers.distributed.sharding` and `trainers.memory_budget`
    refuse."""
    if strategy in (ONE, DDP):
        return True
    if args.memory_budget_gib is not None:
        return False
    return strategy == ZERO2 or not (args.states_per_forward or args.compile_rollouts or args.torch_compile)


def choose(ways: list[Way], trained: str) -> Way:
    """The first way of training what was asked for that fits; else the smallest that the trainer takes."""
    own = [way for way in ways if way.trained == trained]
    least = min((way for way in own if way.allowed), key=lambda way: way.memory.peak)
    return next((way for way in own if way.fits), least)


def advise(
    model: Model,
    setup: Setup,
    args: Planned,
    lengths: Lengths,
    machines: Machines,
    blocks: Blocks | None,
    evaluations: int | None,
) -> str:
    """What saves memory and costs time: the first that makes the run fit, at last by training less of it."""
    args, setup = copy.copy(args), replace(setup, checkpointed=True)
    rows = min(FEW_ROWS, args.rollout_batch_size or args.per_device_train_batch_size)
    args.gradient_checkpointing, args.rollout_batch_size, args.memory_budget_gib = True, rows, None
    saving = f"--training.gradient_checkpointing true --generation.batch_size {rows}"
    tried = []
    for group, text in ((None, saving), (1, f"{saving} --loss.states_per_forward 1")):
        args.states_per_forward = group
        work = count_work(args, lengths, blocks, evaluations)
        ways = ways_of(model, setup, work, lengths, args, machines)
        tried += [(way, text) for way in ways if way.allowed]
    for way, text in sorted(tried, key=lambda pair: pair[0].trained != setup.trained):
        if way.fits:
            adapter = "" if way.trained == setup.trained else f" --model.use_peft {str(way.trained == LORA).lower()}"
            return f"it would under {way.strategy} with {text}{adapter}"
    least, text = min(tried, key=lambda pair: pair[0].memory.peak)
    return (
        f"nothing fits, not even {least.trained} under {least.strategy} with {text}: "
        f"{least.memory.peak / 1e9:.2g} GB of {machines.kind.memory / 1e9:.2g} GB; take more or larger accelerators, "
        "or --model.dtype bfloat16"
    )
