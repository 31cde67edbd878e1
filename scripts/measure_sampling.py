"""Measure exposure bias, and what steps and solvers bring.

On held-out problems, with 95% intervals and the cost beside the gain.

    python scripts/measure_sampling.py configs/sft_scheduled_sampling_gsm8k.yaml --model.name_or_path runs/.../model

Three tables, see `trainers.studies.measurements`; --tables picks some of them. The config says how completions are
generated and where the problems come from; every setting can be overridden.
"""

import json
from functools import partial
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from trainers.commands import OptionParser, at_least, main_or_one_line
from trainers.studies.measurements.steps import FULL, steps_option

if TYPE_CHECKING:
    from trainers.studies.measurements.rows import Measurement

TABLES = ("exposure", "steps", "solvers")


def main(argv: list[str]) -> None:
    """Measure the tables asked for on the problems of a split, print each when done, and write all if asked to."""
    own = OptionParser(__doc__)
    own.add_config()
    own.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES, help="What to measure.")
    own.add_argument(
        "--offsets", nargs="+", default=[1, 2, 4, 7], type=partial(at_least, 0),
        help="Exposure: states that the model reached by so many steps of its own.",
    )  # fmt: skip
    own.add_argument(
        "--steps", nargs="+", default=[2, 4, 8, 16, FULL], type=steps_option,
        help=f"Denoising steps to compare; {FULL} is one token a step.",
    )  # fmt: skip
    own.add_argument("--repeats", default=1, type=partial(at_least, 1), help="Average over so many sampling seeds.")
    own.add_split()
    own.add_json("the numbers")
    options, settings = own.parse(argv)
    request = own.read(options.config, settings)

    # only now: these take seconds to import, which a typo does not wait for
    from trainers.experiment import load_experiment_policy, load_task
    from trainers.saving.environment import environment
    from trainers.settings.config import build
    from trainers.studies.measurements.bench import Bench
    from trainers.studies.measurements.decoding import measure_solvers, measure_steps, step_counts
    from trainers.studies.measurements.exposure import measure_exposure

    config = build(request)
    task, splits = load_task(config.task)
    policy, problems = load_experiment_policy(config, splits["train"]), splits[options.split]
    bench = Bench(config.training, policy, task, problems, config.training.seed, options.repeats)
    counts = step_counts(bench, options.steps)
    measure = {
        "exposure": lambda: measure_exposure(bench, options.offsets),
        "steps": lambda: measure_steps(bench, counts),
        "solvers": lambda: measure_solvers(bench, counts),
    }

    console, tables = Console(), {}
    console.print(
        f"{config.model.model_name_or_path} on {len(problems)} {options.split} problems "
        f"({len(set(problems['cluster']))} independent clusters), temperature {config.training.temperature:g}, "
        "95% intervals",
        soft_wrap=True,
    )
    for name in dict.fromkeys(options.tables):
        with console.status(f"measuring {name}"):
            found = measure[name]()
        show(console, found)
        tables[name] = found.describe()
    if options.json:
        record = {
            "config": config.describe(),
            "split": options.split,
            "repeats": options.repeats,
            "environment": environment(),
            "tables": tables,
        }
        options.json.write_text(json.dumps(record, indent=2))


def show(console: Console, found: "Measurement") -> None:
    """The title and the rows as a table of at most 80 columns, then the notes."""
    if found.rows:
        console.print(found.title, style="bold", markup=False, soft_wrap=True)
        table = Table(box=SIMPLE, collapse_padding=True, show_edge=False)
        for heading in found.rows[0].HEADINGS:
            table.add_column(heading, justify="right")
        for row in found.rows:
            table.add_row(*row.cells())
        console.print(table)
    for note in found.notes:
        console.print(note, style="dim", markup=False, soft_wrap=True)
    console.print()


if __name__ == "__main__":
    main_or_one_line(main)
