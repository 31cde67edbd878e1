"""A plan: from options, a model, machines and a budget to seconds a step, what fits into memory, and days.

Two times are given for everything: the best that the machine could do (roofline, communication hidden behind it), and
that at the assumed share of the roofline, with communication on top. What is real lies above the first.
"""

import copy
from dataclasses import dataclass, replace

from core.sampling.caches import STALE
from trainers.benchmarking.steps import FULL, LORA
from trainers.planning.budgets import Budget
from trainers.planning.machines import CPU, Machines
from trainers.planning.memory import DDP, FLOAT, HALF, ONE, STRATEGIES, ZERO2, Memory, Setup, memory_of, transient_of
from trainers.planning.models import Model
from trainers.planning.network import Passes, bytes_sent
from trainers.planning.phases import ROLLOUT, Meter, Often, Phase, phases_of
from trainers.planning.work import Lengths, Work, count_work
from trainers.settings.config import ExperimentConfig
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.objects import build_likelihood
from trainers.settings.options import ConfigError, require
from trainers.settings.sft import DiffusionSFTConfig

# Shares of the roofline that were measured, on one CPU thread: docs/speed.md, column "of roofline"; and of the peak:
# docs/real_models.md, MFU, with what checkpointing runs again and without the gradients of frozen weights, as here.
ROLLOUT_SHARES = {"exact": 0.6, "block_causal": 0.22, "prefix": 0.35, "dual": 0.30}
TRAINING_SHARES = {FULL: 0.6, LORA: 0.45}
TRAINING = "training"
ITEMSIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2}  # auto: checkpoints of some size are in bfloat16
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


@dataclass(frozen=True)
class Plan:
    """What a run costs; seconds and flop of one optimiser step on one accelerator unless said otherwise.

    Attributes:
        model, machines, setup, lengths, budget: what was asked for.
        dtype: of products.
        work: what a process asks of its model.
        way: how the run is spread: the first of ``ways`` that fits, else the smallest.
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
    advice: str | None

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
    args, block_length = config.training, block_length_of(config, model)
    dtype, mixed = compute_dtype(config, machines.kind.name == CPU)
    if not isinstance(args, ImprovedDiffuGRPOConfig | DiffusionSFTConfig):
        raise ConfigError(f"trainer={config.trainer!r}: expected grpo or sft, of which a plan knows what they do")
    trained = LORA if config.model.use_peft else FULL
    setup = Setup(
        trained=trained,
        itemsize=ITEMSIZES[config.model.dtype],
        mixed=mixed,
        checkpointed=bool(args.gradient_checkpointing),
        reference=getattr(args, "beta", 0.0) != 0.0,
    )
    try:
        work = count_work(args, lengths, block_length, evaluations)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    ways = ways_of(model, setup, work, lengths, args, machines)
    own = [way for way in ways if way.trained == trained]
    least = min((way for way in own if way.allowed), key=lambda way: way.memory.peak)
    way = next((way for way in own if way.fits), least)
    advice = None
    if not way.fits:
        advice = _advice(model, setup, args, lengths, machines, block_length, evaluations)

    shards = 1 if way.strategy in (ONE, DDP) else machines.count
    casts = mixed and setup.itemsize > HALF and shards == 1
    meter = Meter(model, setup, machines.kind.peaks(dtype), casts)
    updated = (model.weights if trained == FULL else model.adapter) / shards
    often, forwards = how_often(args, work), work.scored.forwards
    passes = Passes(often.loss * forwards, (often.old + often.reference) * forwards, often.rollout)
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
        phases=phases_of(
            meter,
            work,
            often,
            streamed=forwards > 1,
            trained=updated,
            itemsize=setup.itemsize if trained == FULL and shards == 1 else FLOAT,
        ),
        sent=bytes_sent(model, setup, passes, way.strategy, machines.count),
        shares=_shares(args, block_length, trained, efficiency),
        completions=args.per_device_train_batch_size * args.gradient_accumulation_steps * machines.count,
        advice=advice,
    )


# ---- what the options say ------------------------------------------------------------------------------------------


def block_length_of(config: ExperimentConfig, model: Model) -> int | None:
    """Tokens of a block of a block-causal model; None: bidirectional."""
    if (config.model.attention or model.attention) == "bidirectional":
        return None
    length = config.training.block_length
    require(config.training, "block_length", length is not None, "the tokens of a block of this block-causal model")
    return length


def compute_dtype(config: ExperimentConfig, cpu: bool) -> tuple[str, bool]:
    """The type that products are made in, and whether autocast or an engine makes it so: bf16 is on by default where
    there is an accelerator, as in TRL."""
    said = config.settings.get("training", {})
    mixed = bool(said.get("bf16", not cpu))
    own = "bfloat16" if config.model.dtype == "auto" else config.model.dtype
    return ("bfloat16" if mixed else own), mixed


def how_often(args: DiffusionArguments, work: Work) -> Often:
    """In an optimiser step; see TRL's `_generate_and_score_completions` for when old log-probabilities are asked."""
    micro_steps = args.gradient_accumulation_steps
    if isinstance(args, DiffusionSFTConfig):
        return Often(rollout=0, old=0, reference=0, loss=micro_steps)
    assert isinstance(args, ImprovedDiffuGRPOConfig) and work.trajectory is not None
    serves = args.steps_per_generation * args.num_iterations  # micro-steps of one rollout
    recorded = args.reuse_commit_logps and build_likelihood(args).replays_steps and args.p_mask_prompt == 0
    asked = micro_steps % serves != 0 and not (recorded and work.trajectory.exact)
    return Often(
        rollout=micro_steps / serves,
        old=micro_steps if asked or args.rolls_out_off_policy else 0,
        reference=micro_steps if args.beta != 0 else 0,
        loss=micro_steps,
    )


def _shares(
    args: DiffusionArguments, block_length: int | None, trained: str, efficiency: float | None
) -> dict[str, float]:
    if efficiency is not None:
        return {ROLLOUT: efficiency, TRAINING: efficiency}
    cache = args.cache if args.cache in STALE else "exact" if block_length is None else "block_causal"
    return {ROLLOUT: ROLLOUT_SHARES[cache], TRAINING: TRAINING_SHARES[trained]}


# ---- memory --------------------------------------------------------------------------------------------------------


def ways_of(
    model: Model, setup: Setup, work: Work, lengths: Lengths, args: DiffusionArguments, machines: Machines
) -> list[Way]:
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


def allowed(args: DiffusionArguments, strategy: str) -> bool:
    """Whether the trainer takes these options: what `trainers.distributed.sharding` and `trainers.memory_budget`
    refuse."""
    if strategy in (ONE, DDP):
        return True
    if args.memory_budget_gib is not None:
        return False
    return strategy == ZERO2 or not (args.states_per_forward or args.compile_rollouts or args.torch_compile)


def _advice(
    model: Model,
    setup: Setup,
    args: DiffusionArguments,
    lengths: Lengths,
    machines: Machines,
    block_length: int | None,
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
        work = count_work(args, lengths, block_length, evaluations)
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
