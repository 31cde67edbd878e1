"""What a run will cost before it is started: arithmetic, memory, tokens a second, days.

    python scripts/plan.py configs/recipes/llada-8b-gsm8k-8gpu/config.yaml 8xH100 24h
    python scripts/plan.py llada-8b 1xH200 500steps configs/x.yaml --model.use_peft true --generation.steps 64
    python scripts/plan.py tiny measure 150steps configs/trajectory_nelbo_gsm8k.yaml --check

The config, CONFIG.yaml with its overrides, is that of scripts/train.py; it names the model. MODEL in its place is a
short name (llada-8b, ...), a shape (2.3m, 1b), a hub id, a directory with config.json, or that file; a config may
follow, and without one the defaults of grpo count. GPUS is COUNTxKIND, or `measure` (or 1xcpu) for this machine.
BUDGET is wall time or optimiser steps. Predictions, from the cost model of scripts/benchmark.py: nothing is run but
small matrix products, and with --check a few steps of the run itself.
"""

import argparse
import json
import shlex
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from trainers.commands import OptionParser, at_least, main_or_one_line, make_folder
from trainers.settings.hub_names import hub_id
from trainers.settings.options import ConfigError
from trainers.settings.parser import read

if TYPE_CHECKING:
    from trainers.planning.plan import Plan

USAGE = "plan.py CONFIG.yaml|MODEL GPUS BUDGET [CONFIG.yaml] [options] [--section.key VALUE ...]"
FILES = (".yaml", ".yml")  # of a config; MODEL may be a .json
whole = partial(at_least, 1)


def options() -> OptionParser:
    """Options beside MODEL, GPUS, BUDGET and config: lengths in tokens, rates a second, bytes, and what to write."""
    parser = OptionParser(__doc__)
    parser.usage = USAGE
    parser.add_argument("--prompt_length", default=None, type=whole, help="tokens; default the task's, or 200")
    parser.add_argument("--mean_length", default=None, type=whole, help="tokens of a completion; default the canvas")
    parser.add_argument("--evaluations", default=None, type=whole, help="of a completion, by an adaptive sampler")
    parser.add_argument("--efficiency", default=None, type=share, help="share of the roofline; default as measured")
    for name, text in (
        ("peak_flops", "FLOP a second"),
        ("bandwidth", "bytes a second, memory to chip"),
        ("memory", "bytes"),
        ("link", "bytes a second to neighbours, one direction"),
        ("network", "bytes a second to another node, one direction, each accelerator"),
    ):
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        parser.add_argument(*spellings, default=None, type=float, help=f"{text}; default the kind's")
    parser.add_argument("--per_node", default=8, type=whole, help="accelerators of one node")
    parser.add_argument("--json", default=None, type=Path, help="also write the plan to this file")
    parser.add_argument("--check", nargs="?", const=5, default=None, type=whole, help="run so many steps here, beside")
    return parser


def share(text: str) -> float:
    """A number above 0 and at most 1, for argparse."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a share above 0, at most 1")
    return value


def arguments_of(leading: list[str]) -> tuple[str, str, str | None, str | None]:
    """(GPUS, BUDGET, config, MODEL) of what stands before the options; None: not there.

    Raises:
        ConfigError: too few or too many, or two configs.
    """
    config_first = bool(leading) and leading[0].endswith(FILES)
    if not 3 <= len(leading) <= (3 if config_first else 4):
        expected = "CONFIG.yaml GPUS BUDGET, or MODEL GPUS BUDGET and perhaps a config"
        raise ConfigError(f"expected {expected}, got {leading}; call: {USAGE}")
    first, gpus, wanted, *after = leading
    if config_first:
        return gpus, wanted, first, None
    return gpus, wanted, after[0] if after else None, first


def show(plan: "Plan", launch: str, source: str) -> Callable[[str], None]:
    """Print a plan, its launch command and its assumptions; returns what prints a further line."""
    from trainers.planning.report import assumptions, legend, memory_table, phase_table, summary

    console = Console()
    print_plan = partial(console.print, markup=False, highlight=False)
    for table, lines in ((phase_table(plan), []), (memory_table(plan), legend(plan))):
        console.print(table)
        print_plan(*lines, "", sep="\n")
    for line in summary(plan):
        print_plan(line)
    advice = plan.advice
    if advice is not None and advice.way is None:
        print_plan(f"does not fit: {advice.text}")
    else:
        fitting = advice and advice.way
        print_plan(f"does not fit; it would, by {fitting.strategy}, as:" if fitting else "start it:")
        print_plan(f"  {launch}", soft_wrap=True)  # a command stays one line
    print_plan("\na prediction, not a measurement; it assumes:")
    for line in assumptions(plan, source):
        print_plan(f"- {line}", style="dim")
    return print_plan


def main(argv: list[str]) -> None:
    """Print the plan, its launch command and its assumptions; with --check, run some steps of it here."""
    leading = list(takewhile(lambda text: not text.startswith("-"), argv))
    chosen, overrides = options().parse_known_args(argv[len(leading) :])
    gpus, wanted, path, named = arguments_of(leading)
    if path is not None:
        read([path, *overrides])

    # only now: these take seconds to import, which a typo does not wait for
    from trainers.planning.budgets import find_budget
    from trainers.planning.check import check
    from trainers.planning.derived import compute_dtype
    from trainers.planning.machines import Given, Machines, asked_for, find_machines
    from trainers.planning.models import find_model, place_of
    from trainers.planning.plan import Plan, make_plan
    from trainers.planning.report import describe, launch_line
    from trainers.planning.settings import find_lengths, read_config, whole_evaluations

    budget = find_budget(wanted)
    given = Given(chosen.peak_flops, chosen.bandwidth, chosen.memory, chosen.link, chosen.network)
    if chosen.json is not None:
        make_folder("--json", chosen.json, chosen.json.parent)
    asked = asked_for(gpus, given)
    config = read_config(path, overrides, asked.count)
    name = config.model.model_name_or_path if named is None else hub_id(named)
    model = find_model(name, config.model)
    lengths, source = find_lengths(config, name, chosen.prompt_length, chosen.mean_length, path is not None)
    evaluations = whole_evaluations(config.training, chosen.evaluations)

    def plan_on(machines: Machines) -> Plan:
        return make_plan(config, model, machines, budget, lengths, chosen.efficiency, evaluations)

    dtype, _ = compute_dtype(config, asked.cpu)
    plan = plan_on(find_machines(asked, given, chosen.per_node, dtype))

    other = [] if name == config.model.model_name_or_path else ["--model.name_or_path", place_of(name)]
    launch = launch_line(plan, config, path or "CONFIG.yaml", [*other, *overrides])
    say = show(plan, launch, source)
    record = describe(plan, source, launch)
    if chosen.check is not None:
        record["check"] = check(config, name, plan, chosen.check, plan_on, say)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(record | {"command": shlex.join(["plan.py", *argv])}, indent=2, default=str))
        say(f"written: {chosen.json}")


if __name__ == "__main__":
    main_or_one_line(main)
