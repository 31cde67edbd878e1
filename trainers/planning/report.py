"""A plan for people and for programs. Nothing is printed to more than two digits: it is not known better."""

import math
import shlex
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from trainers.benchmarking.steps import FULL
from trainers.planning.budgets import HOUR
from trainers.planning.derived import TRAINING, asked_strategy
from trainers.planning.machines import Machines
from trainers.planning.memory import FLOAT, USABLE
from trainers.planning.phases import ROLLOUT
from trainers.planning.plan import Plan
from trainers.settings.config import ExperimentConfig
from trainers.settings.spreading import DDP, FSDP2, ONE, ZERO2, ZERO3

# what spreads a run that torchrun starts
SPREAD = {
    FSDP2: ["--fsdp", "true"],
    ZERO2: ["--deepspeed", "configs/accelerate/zero2.json"],
    ZERO3: ["--deepspeed", "configs/accelerate/zero3.json"],
}
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def two(value: float) -> str:
    """Two significant digits, without an exponent."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "-"
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):.{max(0, digits)}f}"


def scaled(value: float, unit: str) -> str:
    """Two digits with a prefix of the SI, as 1.3 TFLOP."""
    power = min(len(PREFIXES) - 1, max(0, math.floor(math.log10(abs(value)) / 3))) if value else 0
    rounded = two(value / 1000**power)
    return f"{rounded} {PREFIXES[power]}{unit}"


def span(seconds: float) -> str:
    """Wall time in the unit that suits it."""
    for unit, size in (("days", 24 * HOUR), ("h", HOUR), ("min", 60)):
        if seconds >= 2 * size:
            return f"{two(seconds / size)} {unit}"
    return f"{two(seconds)} s"


def launch_line(plan: Plan, config: ExperimentConfig, path: str, options: list[str]) -> str:
    """The command that starts the run as planned, or, if that does not fit, as advised; whole: models that are read
    natively need no trust_remote_code.

    Args:
        plan: which way of spreading the run was chosen.
        config: the options, which may spread the run themselves.
        path: of the config file.
        options: that override it.
    """
    machines, nodes = plan.machines, nodes_of(plan.machines)
    told = asked_strategy(config.training, machines.count) is not None
    way, more = plan.way, ()
    if not plan.way.fits and plan.advice is not None and plan.advice.way is not None:
        way, more = plan.advice.way, plan.advice.options
    script = ["scripts/train.py", path, *options, *more, *([] if told else SPREAD.get(way.strategy, []))]
    if way.strategy == ONE:
        return shlex.join(["python", *script])
    several = f"--nnodes {nodes} --rdzv_backend c10d --rdzv_endpoint $MASTER_ADDR:29500 " if nodes > 1 else ""
    return f"torchrun {several}--nproc_per_node {min(machines.count, machines.per_node)} {shlex.join(script)}"


def nodes_of(machines: Machines) -> int:
    """How many nodes the accelerators fill, the last one perhaps in part."""
    return math.ceil(machines.count / machines.per_node)


def phase_table(plan: Plan) -> Table:
    """Arithmetic and seconds, at best and as assumed, of each phase of a step, of communication, and of all."""
    table = _table(f"one optimiser step, each of {plan.machines.count}", "flop", "of it head", "at best", "assumed")
    for phase in plan.phases:
        times = (f"{two(phase.seconds)} s", f"{two(plan.assumed_seconds(phase))} s")
        table.add_row(phase.name, scaled(phase.flop, "FLOP"), scaled(phase.head, "FLOP"), *times)
    if plan.communication:
        sent = scaled(sum(plan.sent.values()), "B sent")
        table.add_row("communication", sent, "", f"{two(plan.communication)} s", f"{two(plan.communication)} s")
    table.add_row("step", scaled(plan.flop, "FLOP"), "", f"{two(plan.best)} s", f"{two(plan.assumed)} s")
    return table


def memory_table(plan: Plan) -> Table:
    """GB on one accelerator, part by part, for each way to spread the run; a star marks the way that was chosen."""
    table = _table(
        f"GB, of {two(plan.machines.kind.memory / 1e9)}",
        *("weights", "grads", "Adam", "ref", "loss", "rollout", "peak", "fits"),
    )
    for way in plan.ways:
        chosen = " *" if way is plan.way else ""
        memory = way.memory
        parts = (memory.weights, memory.gradients, memory.optimiser, memory.reference, memory.training)
        cells = [two(value / 1e9) for value in (*parts, memory.rollout, memory.peak)]
        verdict = "yes" if way.fits else "no" if way.refused is None else "refused"
        table.add_row(f"{way.trained}, {way.strategy}{chosen}", *cells, verdict)
    return table


def legend(plan: Plan) -> list[str]:
    """What the star and the words of the memory table mean, as far as they are there."""
    name = f"{plan.way.trained}, {plan.way.strategy}"
    if plan.way.fits:
        lines = [f"* planned: {name}, of what this config trains the first that fits"]
    else:
        lines = [f"* counted on below: {name}, of what this config trains the smallest; it does not fit"]
    if plan.way.trained == FULL and plan.setup.itemsize < FLOAT and plan.way.strategy in (ONE, DDP):
        lines.append(
            "note: all weights are trained in a type of 2 bytes, in which small updates are rounded away: leave "
            "model.dtype at float32, or spread the run by FSDP2 or ZeRO, which keep float32 copies"
        )
    reasons = {way.refused: None for way in plan.ways if way.refused is not None}
    return lines + [f"refused by the trainer: {reason}" for reason in reasons]


def _table(first: str, *headings: str) -> Table:
    table = Table(box=SIMPLE, collapse_padding=True, show_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def summary(plan: Plan) -> list[str]:
    """What the budget buys, from the assumed time to the best."""
    tokens = plan.completions * plan.lengths.completion
    rates = [tokens / seconds for seconds in (plan.assumed, plan.best)]
    lines = [
        f"a step: {span(plan.assumed)} (at best {span(plan.best)}), {plan.completions} completions; "
        f"{scaled(rates[0], 'tokens/s')} (at best {scaled(rates[1], 'tokens/s')}); MFU {plan.mfu:.0%} as assumed"
    ]
    steps, seconds = plan.budget.spent(plan.assumed)
    most, least = plan.budget.spent(plan.best)
    if plan.budget.steps is None:
        lines.append(f"{span(seconds)}: {two(steps)} steps (at best {two(most)})")
    else:
        lines.append(f"{steps} steps: {span(seconds)} (at best {span(least)})")
    lines.append(f"that is {two(seconds / (24 * HOUR) * plan.machines.count)} accelerator-days")
    return lines


def assumptions(plan: Plan, lengths: str) -> list[str]:
    """Everything that the numbers rest on."""
    kind, setup, rollout = plan.machines.kind, plan.setup, plan.work.rollout
    peaks = kind.peaks(plan.dtype)
    lines = [
        f"{plan.model.name}: {two(plan.model.weights / 1e6)}M weights, products in {plan.dtype}, weights of "
        f"{setup.itemsize} bytes",
        f"{kind.name}: {scaled(peaks.flops, 'FLOP/s')}, {scaled(peaks.bandwidth, 'B/s')}, {scaled(kind.memory, 'B')} "
        f"({kind.source or 'as given'}); {USABLE:.0%} of the memory can be used",
        lengths,
        f"share of the roofline: rollout {plan.shares[ROLLOUT]:.0%}, the rest {plan.shares[TRAINING]:.0%} (unless set "
        "by --efficiency, what was measured on a CPU: docs/results.md; no GPU has been measured)",
        "norms, softmax, copies, rewards, evaluation and checkpoints are not counted: the best is a lower bound; nor "
        "are scheduled sampling's own rollouts",
    ]
    if rollout.body:
        made = max(each.rows for each in rollout.body)
        lines.insert(
            3,
            f"{rollout.forwards} evaluations of up to {made} rows in a rollout; an adaptive sampler is taken to "
            "reveal one token an evaluation, unless --evaluations says otherwise",
        )
    if plan.machines.count > 1:
        hop = "link" if plan.machines.count <= plan.machines.per_node else "network"
        lines.append(f"communication by a ring, {scaled(plan.machines.link, 'B/s')} ({hop}); at best it is hidden")
    return lines


def describe(plan: Plan, lengths: str, launch: str) -> dict[str, Any]:
    """The plan as JSON: unrounded, but no more certain for that. ``launch``: the command, if the plan fits."""
    steps, seconds = plan.budget.spent(plan.assumed)
    return {
        "model": {"name": plan.model.name, "weights": plan.model.weights, "adapter": plan.model.adapter},
        "machines": asdict(plan.machines),
        "setup": asdict(plan.setup),
        "lengths": asdict(plan.lengths),
        "phases": [asdict(phase) | {"assumed_seconds": plan.assumed_seconds(phase)} for phase in plan.phases],
        "bytes_sent": plan.sent,
        "communication_seconds": plan.communication,
        "flop": plan.flop,
        "seconds_per_step": {"best": plan.best, "assumed": plan.assumed},
        "tokens_per_second": plan.completions * plan.lengths.completion / plan.assumed,
        "mfu": plan.mfu,
        "steps": steps,
        "seconds": seconds,
        "days": seconds / (24 * HOUR),
        "shares": plan.shares,
        "ways": [asdict(way) | {"peak": way.memory.peak} for way in plan.ways],
        "recommended": f"{plan.way.trained}, {plan.way.strategy}" if plan.way.fits else None,
        "advice": plan.advice and plan.advice.text,
        "launch": launch if plan.way.fits else None,
        "assumptions": assumptions(plan, lengths),
    }
