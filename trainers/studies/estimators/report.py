"""What a comparison leaves behind: tables for the terminal, a CSV, a record and the picture."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from trainers.studies.estimators.picture import picture
from trainers.studies.estimators.rows import Row, as_record, has_gradients

LIKELIHOOD = ("log-likelihood", "states", "bias", "±", "rms bias", "std")
GRADIENT = ("policy gradient", "bias", "scale", "cosine", "std", "batch")
NOTES = (
    "log-likelihood, nats a completion: bias is mean estimate - exact log p, ± its 95% interval over completions; "
    "rms bias is over completions, std of one estimate; states are forwards a sequence.",
    "policy gradient, relative to the norm of the exact one: bias is |mean - exact|, '<' where it is not told from 0; "
    "scale and cosine are of the mean; std is of a batch's gradient, and 'batch' its mean cosine.",
)


def label(row: Row) -> str:
    """Estimator, options, ratio if it matters, number of draws."""
    ratio = "plain" if row.ratio == "plain" else ""
    return " ".join(str(part) for part in (row.estimator, row.settings, ratio, row.draws) if part not in ("", None))


def tables(rows: list[Row]) -> list[Table]:
    """One of the likelihoods and, where they were measured, one of the gradients; a line an estimator."""
    likelihood = _likelihood_table(rows)
    return [likelihood, _gradient_table(rows)] if has_gradients(rows) else [likelihood]


def _likelihood_table(rows: list[Row]) -> Table:
    likelihood = _table(LIKELIHOOD)
    for row in rows:
        half = (row.bias_high - row.bias_low) / 2
        likelihood.add_row(
            label(row),
            _number(row.forwards, ".0f"),
            f"{row.bias:+.3f}",
            *(f"{value:.3f}" for value in (half, row.bias_rms, row.std)),
        )
    return likelihood


def _gradient_table(rows: list[Row]) -> Table:
    gradient = _table(GRADIENT)
    for row in rows:
        bias = f"{row.gradient_bias:.3f}" if row.biased else f"<{row.gradient_bias_floor:.3f}"
        numbers = (row.gradient_scale, row.cosine_of_mean, row.gradient_std, row.batch_cosine)
        gradient.add_row(label(row), bias, *(f"{value:.3f}" for value in numbers))
    return gradient


def _table(headings: tuple[str, ...]) -> Table:
    found = Table(box=SIMPLE, collapse_padding=True, show_edge=False)
    for heading in headings:
        found.add_column(heading, justify="left" if heading == headings[0] else "right", no_wrap=True)
    return found


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def write(folder: Path, rows: list[Row], settings: dict[str, Any]) -> list[Path]:
    """``estimators.csv``, ``estimators.json`` and ``estimators.png``; returns their paths."""
    paths = [folder / f"estimators.{ending}" for ending in ("csv", "json", "png")]
    with paths[0].open("w", newline="") as file:
        writer = csv.DictWriter(file, Row.columns())
        writer.writeheader()
        writer.writerows(as_record(row) for row in rows)
    paths[1].write_text(json.dumps({**settings, "rows": [as_record(row) for row in rows]}, indent=2))
    picture(rows).savefig(paths[2])
    return paths
