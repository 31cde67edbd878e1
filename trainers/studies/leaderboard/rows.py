"""One entry within one budget, as a `Row`: what is finished, in numbers with intervals.

Every number is of the checkpoint that a budget chose on the validation split. A row's value is the mean over seeds,
its deviation the standard deviation over seeds. The 95% interval covers both sources of chance: seeds (Student's
quantile with n - 1 degrees of freedom times the standard error over the seeds' values) and problems (cluster-robust,
`trainers.evaluating.statistics`, on each problem's mean over the seeds); the half-widths add in squares. It is a
little wide, because the noise of a single answer is in both. Differences to the first entry are paired, problem by
problem and seed by seed; an interval that contains 0 is a tie. One seed says nothing about seeds: its intervals are
infinite.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.evaluating.statistics import Interval, clustered_mean, paired_difference
from trainers.reporting.markdown import ABSENT
from trainers.settings.options import ConfigError
from trainers.studies.leaderboard.board import Leaderboard
from trainers.studies.leaderboard.budgets import BUDGETS, FORWARDS, SECONDS
from trainers.studies.leaderboard.cells import MODES, PARSERS, Cells, Records, outcomes
from trainers.studies.leaderboard.intervals import deviation, with_seeds

MEASURES = [f"{mode} {parser}" for mode in MODES for parser in PARSERS]
HEADLINE = "sampled strict"
UNITS = {FORWARDS: "forward passes", SECONDS: "seconds of training"}


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


def _row(name: str, budget: str, records: Records, first: Records) -> Row:
    """One entry within one budget; ``first`` are the records that it is compared with."""
    clusters = next(iter(records.values()))["clusters"].split()
    # measure -> (seeds, problems)
    by_measure = {m: np.array([outcomes(r, budget, m) for r in records.values()]) for m in MEASURES}
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
        difference=_difference(budget, records, first, clusters),
    )


def _difference(budget: str, records: Records, first: Records, clusters: list[str]) -> Interval | None:
    """Accuracy minus the first entry's, paired by seed and problem; None without seeds that both have."""
    shared = [seed for seed in records if seed in first]
    if not shared:
        return None
    old, new = (np.array([outcomes(c[seed], budget, HEADLINE) for seed in shared]) for c in (first, records))
    problems = paired_difference(list(old.mean(0)), list(new.mean(0)), clusters)
    return with_seeds(problems, list((new - old).mean(1)))
