"""What the finished cells of a leaderboard say: rows with intervals, tables, results.csv, results.json and a picture.

Every number is of the checkpoint that a budget chose on the validation split. A row's value is the mean over seeds,
its deviation the standard deviation over seeds. The 95% interval covers both sources of chance: seeds (Student's
quantile with n - 1 degrees of freedom times the standard error over the seeds' values) and problems (cluster-robust,
`trainers.evaluating.statistics`, on each problem's mean over the seeds); the half-widths add in squares. It is a
little wide, because the noise of a single answer is in both. Differences to the first entry are paired, problem by
problem and seed by seed; an interval that contains 0 is a tie. One seed says nothing about seeds: its intervals are
infinite.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich.box import SIMPLE
from rich.table import Table

from trainers.evaluating.statistics import Interval, clustered_mean, paired_difference
from trainers.reporting.figures import BLUE, ORANGE, REWARD_COLOURS, label_axes, save_figure
from trainers.reporting.markdown import ABSENT
from trainers.saving.files import replace_file
from trainers.settings.trainer import ConfigError
from trainers.studies.budgets import BUDGETS, FORWARDS, SECONDS
from trainers.studies.leaderboard import MODES, PARSERS, Leaderboard, write_json

Cells = dict[str, dict[int, dict[str, Any]]]  # entry -> seed -> record

MEASURES = [f"{mode} {parser}" for mode in MODES for parser in PARSERS]
HEADLINE = "sampled strict"
UNITS = {FORWARDS: "forward passes", SECONDS: "seconds of training"}
COLOURS = {FORWARDS: BLUE, SECONDS: ORANGE}
DASHES = ("-", "--", ":", "-.")


# ---- intervals ------------------------------------------------------------------------------------------------------


def student95(degrees: int) -> float:
    """The t for which Student's |T| stays below it with probability 0.95, by bisection; infinite without degrees."""
    if degrees < 1:
        return math.inf
    low, high = 1.0, 13.0  # the quantile falls from 12.71 at one degree to 1.96
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if student_share(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def student_share(t: float, degrees: int) -> float:
    """P(|T| < t) for Student's T with whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees == 1:
        return 2 * angle / math.pi
    term = total = cosine if degrees % 2 else 1.0
    for k in range(2 + degrees % 2, degrees, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (angle + sine * total) if degrees % 2 else sine * total


def with_seeds(problems: Interval, by_seed: Sequence[float]) -> Interval:
    """Widen an interval over problems by the spread over seeds.

    Args:
        problems: of the mean over seeds, with the problems as the only source of chance.
        by_seed: one value a seed, with ``problems.value`` as their mean.
    """
    count = len(by_seed)
    half = student95(count - 1)
    if count > 1:
        half *= deviation(by_seed) / math.sqrt(count)
    value = problems.value
    return Interval(
        value, value - math.hypot(half, value - problems.low), value + math.hypot(half, problems.high - value)
    )


def deviation(values: Sequence[float]) -> float:
    """Standard deviation with n - 1; 0 for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


# ---- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One entry within one budget.

    Attributes:
        seeds, failed: seeds finished, and those among them whose training raised.
        steps: optimiser steps within the budget, mean over seeds.
        chosen_step: that of the chosen checkpoint, mean over seeds.
        accuracy: measure ("sampled strict", ...) -> mean over seeds with its interval.
        deviation: measure -> standard deviation over seeds.
        difference: sampled strict accuracy minus that of the first entry, over the seeds that both have; None for the
            first entry itself and without such seeds.
    """

    entry: str
    budget: str
    seeds: int
    failed: int
    steps: float
    chosen_step: float
    accuracy: dict[str, Interval]
    deviation: dict[str, float]
    difference: Interval | None

    @property
    def tie(self) -> bool:
        """Whether the difference may be 0."""
        return self.difference is not None and self.difference.low <= 0 <= self.difference.high

    def cells(self) -> list[str]:
        """The row of the table."""
        failed = f" ({self.failed} of {self.seeds} failed)" if self.failed else ""
        measures = [f"{100 * self.accuracy[m].value:.1f} ± {100 * self.deviation[m]:.1f}" for m in MEASURES[:3]]
        return [self.entry + failed, str(self.seeds), f"{self.steps:.0f}", *measures, self.gain()]

    def gain(self) -> str:
        """The difference in points, with its interval or the word tie."""
        if self.difference is None:
            return ABSENT
        value, low, high = (100 * end for end in (self.difference.value, self.difference.low, self.difference.high))
        if not math.isfinite(low):
            return f"{value:+.1f}, tie (one seed)"
        return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" + (", tie" if self.tie else "")

    def record(self) -> dict[str, Any]:
        """Flat, one column a number; what is not finite is empty."""
        flat: dict[str, Any] = {
            "entry": self.entry,
            "budget": self.budget,
            "seeds": self.seeds,
            "failed": self.failed,
            "steps": self.steps,
            "chosen_step": self.chosen_step,
        }
        for measure, interval in self.accuracy.items():
            flat |= _ends(measure.replace(" ", "_"), interval)
            flat[f"{measure.replace(' ', '_')}_deviation"] = self.deviation[measure]
        return flat | _ends("difference", self.difference) | {"tie": self.tie}


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    ends = vars(interval) if interval else dict.fromkeys(("value", "low", "high"))
    return {
        f"{name}_{end}" if end != "value" else name: number if number is not None and math.isfinite(number) else None
        for end, number in ends.items()
    }


def rows(board: Leaderboard, cells: Cells) -> list[Row]:
    """One row a budget and entry that has finished cells, in the order of the board.

    Raises:
        ConfigError: cells were tested on different problems.
    """
    clusters = {record["clusters"] for records in cells.values() for record in records.values()}
    if len(clusters) > 1:
        raise ConfigError("leaderboard: its entries were tested on different problems; give the task in overrides")
    first = cells[next(iter(board.entries))]
    return [
        _row(name, budget, cells[name], first if name != next(iter(board.entries)) else {})
        for budget in BUDGETS
        for name in board.names
        if cells[name]
    ]


def _row(name: str, budget: str, records: dict[int, dict[str, Any]], first: dict[int, dict[str, Any]]) -> Row:
    clusters = next(iter(records.values()))["clusters"].split()
    by_measure = {
        m: np.array([outcomes(r, budget, m) for r in records.values()]) for m in MEASURES
    }  # (seeds, problems)
    shared = [seed for seed in records if seed in first]
    difference = None
    if shared:
        old, new = (np.array([outcomes(c[seed], budget, HEADLINE) for seed in shared]) for c in (first, records))
        problems = paired_difference(list(old.mean(0)), list(new.mean(0)), clusters)
        difference = with_seeds(problems, list((new - old).mean(1)))
    return Row(
        entry=name,
        budget=budget,
        seeds=len(records),
        failed=sum(record["failure"] is not None for record in records.values()),
        steps=float(np.mean([record["steps"][budget] for record in records.values()])),
        chosen_step=float(np.mean([record["chosen"][budget] for record in records.values()])),
        accuracy={
            m: with_seeds(clustered_mean(list(right.mean(0)), clusters), list(right.mean(1)))
            for m, right in by_measure.items()
        },
        deviation={m: deviation(list(right.mean(1))) for m, right in by_measure.items()},
        difference=difference,
    )


def outcomes(record: dict[str, Any], budget: str, measure: str) -> list[float]:
    """0 or 1 a test problem, for the checkpoint that ``budget`` chose."""
    mode, parser = measure.split()
    return [float(digit) for digit in record["tests"][str(record["chosen"][budget])][mode][parser]]


# ---- for the reader -------------------------------------------------------------------------------------------------


def tables(board: Leaderboard, found: list[Row]) -> list[Table]:
    """One table a budget."""
    made = []
    for budget in BUDGETS:
        title = f"{getattr(board, budget):,g} {UNITS[budget]}"
        table = Table(title=title, title_justify="left", box=SIMPLE, collapse_padding=True, show_edge=False)
        table.add_column("entry", overflow="fold")
        for heading in ("seeds", "steps", *(measure.replace(" strict", "") for measure in MEASURES[:3])):
            table.add_column(heading, justify="right")
        table.add_column("difference [95%]", justify="right", overflow="fold")
        for row in found:
            if row.budget == budget:
                table.add_row(*row.cells())
        made.append(table)
    return made


def notes(board: Leaderboard, cells: Cells) -> list[str]:
    """What the numbers are, in sentences."""
    records = [record for by_seed in cells.values() for record in by_seed.values()]
    problems = records[0]["clusters"].split()
    device = records[0]["environment"]["device"]
    failures = [f"{r['entry']}, seed {r['seed']}: failed at {r['failure']}" for r in records if r["failure"]]
    return [
        f"test accuracy in %, mean ± standard deviation over seeds, of the checkpoint chosen on the validation split; "
        f"{len(problems)} problems, {len(set(problems))} independent clusters",
        "difference to the first entry: sampled strict, in points, paired; 95% interval over seeds (Student) and "
        "problems (clusters); tie: it contains 0",
        f"forwards: evaluations of one sequence, in rollouts and scoring; seconds: CPU time of the process on CPU, "
        f"wall time on an accelerator, without validation; {device}",
        f"{len(records)} of {len(board.names) * len(board.seeds)} cells are finished",
        *failures,
    ]


def write_results(board: Leaderboard, cells: Cells, found: list[Row]) -> None:
    """results.csv, results.json and leaderboard.png in the board's folder."""
    directory = Path(board.output_dir)
    flat = [row.record() for row in found]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    replace_file(directory / "results.csv", text.getvalue().encode())
    results = {
        "board": vars(board),
        "notes": notes(board, cells),
        "rows": flat,
        "by_seed": [
            {
                "entry": name,
                "seed": seed,
                "budget": budget,
                "chosen_step": record["chosen"][budget],
                **{measure: float(np.mean(outcomes(record, budget, measure))) for measure in MEASURES},
            }
            for name, records in cells.items()
            for seed, record in records.items()
            for budget in BUDGETS
        ],
        "validation": {name: curve(records) for name, records in cells.items() if name in board.entries},
    }
    write_json(directory / "results.json", results)
    draw(board, cells, found, directory / "leaderboard.png")


def curve(records: dict[int, dict[str, Any]]) -> list[tuple[float, float]]:
    """Forwards and validation accuracy, means over seeds, at the start and at each mark of the forwards budget."""
    by_seed = [[c for c in r["candidates"] if FORWARDS in c["due"]] for r in records.values()]
    shortest = min((len(candidates) for candidates in by_seed), default=0)  # a failed run ends early
    return [
        (
            float(np.mean([candidates[k]["forwards"] for candidates in by_seed])),
            float(np.mean([candidates[k]["validation"] for candidates in by_seed])),
        )
        for k in range(shortest)
    ]


def draw(board: Leaderboard, cells: Cells, found: list[Row], path: Path) -> None:
    """Test accuracy of every entry in both budgets, and validation accuracy on the way."""
    names = [name for name in board.names if cells[name]]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(15, 3 + 0.42 * len(names)), dpi=100, layout=layout)
    accuracy, validation = figure.subplots(1, 2)
    _draw_accuracy(accuracy, board, names, found)
    label_axes(validation, "On the way, mean over seeds", "validation accuracy, sampled strict (%)", UNITS[FORWARDS])
    for index, name in enumerate(name for name in names if name in board.entries):
        points = np.array(curve(cells[name])).reshape(-1, 2)
        palette = (BLUE, *REWARD_COLOURS)
        colour, dashes = palette[index % len(palette)], DASHES[index // len(palette) % len(DASHES)]
        validation.plot(points[:, 0], 100 * points[:, 1], dashes, color=colour, marker="o", markersize=4, label=name)
    if validation.has_data():
        validation.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    save_figure(figure, path)


def _draw_accuracy(axes: Axes, board: Leaderboard, names: list[str], found: list[Row]) -> None:
    label_axes(
        axes, "Test accuracy of the chosen checkpoint, 95% intervals", "", "problems solved, sampled strict (%)"
    )
    for budget, shift in zip(BUDGETS, (-0.14, 0.14), strict=True):
        mine = [row for row in found if row.budget == budget]
        heights = [names.index(row.entry) + shift for row in mine]
        for row, height in zip(mine, heights, strict=True):
            ends = [100 * end for end in (row.accuracy[HEADLINE].low, row.accuracy[HEADLINE].high)]
            if all(map(math.isfinite, ends)):  # one seed has no interval
                axes.plot(ends, [height, height], color=COLOURS[budget], linewidth=1.6)
        values = [100 * row.accuracy[HEADLINE].value for row in mine]
        label = f"{getattr(board, budget):,g} {UNITS[budget]}"
        axes.plot(values, heights, "o", color=COLOURS[budget], markersize=6, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first entry on top
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
