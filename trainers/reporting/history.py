"""A run's log as rows and series of numbers: what tables and curves read.

`trainer.state.log_history` is a list of dicts with "step" and metrics. Three kinds of entries share it: *training
rows*, evaluations (keys "eval_...") and the *summary* at the end ("train_runtime", ...). A metric may be absent from
any row, or not be a finite number; neither stops a reader.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Log = Sequence[Row]

# Keys of the log that say where a row stands, not how training goes; "train_..." is the summary's own.
BOOKKEEPING = {"step", "epoch", "total_flos", "num_tokens", "num_input_tokens_seen"}

# the parts of a step that are timed, each as "time/<part>"
TIMED = ("rollout", "scoring", "scheduled_sampling", "backward")
TABLE_ROWS = 10


def training_rows(log_history: Log) -> list[Row]:
    """Entries with metrics of training steps; the summary is one only if TRL merged the last metrics into it."""

    def is_metric(key: str) -> bool:
        return key not in BOOKKEEPING and not key.startswith(("eval_", "train_"))

    return [row for row in log_history if any(map(is_metric, row))]


def is_number(value: Any) -> bool:
    """Is it there, a number and finite?"""
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def series(rows: Log, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, where it is a finite number."""
    pairs = [(row.get("step", index), row[key]) for index, row in enumerate(rows) if is_number(row.get(key))]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.asarray(steps, dtype=float), np.asarray(values, dtype=float)


def has(rows: Log, key: str) -> bool:
    """Was the metric ever logged as a finite number?"""
    return any(is_number(row.get(key)) for row in rows)


def nelbo_error(row: Row) -> float | None:
    """Monte-Carlo standard error of a row's bound; None where the estimator has none, or where nothing is left to
    chance: a "± 0.00" would claim more than is known."""
    error = row.get("nelbo_standard_error")
    if error is None or not is_number(error) or not is_number(row.get("nelbo")):
        return None
    return error if error > 0 else None


def reward_means(rows: Log) -> dict[str, str]:
    """The reward functions' means: key in the log -> name of the function, in order of appearance."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("rewards/") and key.endswith("/mean"))
    return {key: key.removeprefix("rewards/").removesuffix("/mean") for key in keys if has(rows, key)}


def evenly(rows: Log, count: int = TABLE_ROWS) -> list[Row]:
    """At most ``count`` rows, the first and the last among them."""
    picks = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[i] for i in picks]


def time_split(rows: Log) -> dict[str, float]:
    """Mean seconds of an optimiser step by part, "rest" being what is left of "step_time"; {} if not logged."""
    timed = [row for row in rows if is_number(row.get("step_time"))]
    if not timed:
        return {}

    def mean(key: str) -> float:
        # a step that replays an earlier rollout spends no time on one: absent counts as 0
        return sum(row[key] for row in timed if is_number(row.get(key))) / len(timed)

    parts = {part: mean(f"time/{part}") for part in TIMED if has(timed, f"time/{part}")}
    whole = mean("step_time")
    return {**parts, "rest": whole - sum(parts.values()), "whole step": whole}
