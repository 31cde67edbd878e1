"""Held-out accuracy of any checkpoint, sampled and greedy, strict and lenient, with 95% intervals.

    python scripts/evaluate.py configs/trajectory_nelbo_gsm8k.yaml --model.name_or_path runs/.../model --split test

The config says how completions are generated and where the problems come from; every setting can be overridden.
"""

import json

from rich.console import Console
from rich.table import Table

from trainers.config_parser import parse
from trainers.console import OptionParser, main_or_one_line
from trainers.evaluation import summarise
from trainers.experiment import build_evaluator, environment, load_experiment_policy, load_task


def main(argv: list[str]) -> None:
    options, rest = OptionParser().parse_measurement(argv)
    config = parse(rest)

    task, splits = load_task(config.task)
    policy = load_experiment_policy(config, splits["train"])
    evaluations = build_evaluator(config, task, splits[options.split]).both(policy)

    problems = splits[options.split]
    table = Table(
        title=f"{config.model.model_name_or_path} on {len(problems)} {options.split} problems "
        f"({len(set(problems['cluster']))} independent clusters)"
    )
    for heading in ("decoding", "strict, 95% interval", "lenient, 95% interval", "forwards", "seconds"):
        table.add_column(heading)
    for mode, outcome in evaluations.items():
        table.add_row(
            mode,
            str(outcome.accuracy("strict")),
            str(outcome.accuracy("lenient")),
            f"{outcome.forwards:.2f}",
            f"{outcome.seconds:.1f}",
        )
    Console().print(table)
    if options.json:
        record = {
            "config": config.describe(),
            "split": options.split,
            "environment": environment(),
            "accuracy": summarise(evaluations),
        }
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main_or_one_line(main)
