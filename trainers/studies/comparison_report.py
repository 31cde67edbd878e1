"""What a comparison of estimators leaves behind: a table, a CSV, a record and a picture of bias against spread."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from trainers.studies.comparison import REINFORCE, Row, as_record

# Okabe & Ito's palette; markers too, so that estimators beyond its eight colours differ
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vPX*<>"
ROUNDING = 1e-4  # nats that float32 may be off
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
    likelihood = _table(LIKELIHOOD)
    for row in rows:
        half = (row.bias_high - row.bias_low) / 2
        likelihood.add_row(
            label(row),
            _number(row.forwards, ".0f"),
            f"{row.bias:+.3f}",
            *(f"{value:.3f}" for value in (half, row.bias_rms, row.std)),
        )
    if not _has_gradients(rows):
        return [likelihood]
    gradient = _table(GRADIENT)
    for row in rows:
        bias = f"{row.gradient_bias:.3f}" if row.biased else f"<{row.gradient_bias_floor:.3f}"
        numbers = (row.gradient_scale, row.cosine_of_mean, row.gradient_std, row.batch_cosine)
        gradient.add_row(label(row), bias, *(f"{value:.3f}" for value in numbers))
    return [likelihood, gradient]


def _table(headings: tuple[str, ...]) -> Table:
    found = Table(box=SIMPLE, collapse_padding=True, show_edge=False)
    for heading in headings:
        found.add_column(heading, justify="left" if heading == headings[0] else "right", no_wrap=True)
    return found


def _has_gradients(rows: list[Row]) -> bool:
    return not all(math.isnan(row.gradient_bias) for row in rows)


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


def picture(rows: list[Row]) -> Figure:
    """Bias against spread, of the likelihood and, where it was measured, of the gradient."""
    measured = _has_gradients(rows)
    figure = Figure(figsize=(15 if measured else 9, 8), dpi=100, layout="constrained")
    panels = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    for row, colour, marker in _looks(rows):
        if row.estimator != REINFORCE:
            fair = row.bias_low <= ROUNDING and row.bias_high >= -ROUNDING
            _mark(panels[0], row, row.bias, row.std, colour, marker, hollow=fair)
        if measured:
            bias = max(row.gradient_bias, row.gradient_bias_floor)
            _mark(panels[1], row, bias, row.gradient_std, colour, marker, hollow=not row.biased)
    panels[0].axvline(0, color="0.6", linewidth=1)
    panels[0].set(title="log-likelihood of a completion", xlabel="bias, nats (hollow: 95% interval holds 0)")
    panels[0].set_ylabel("standard deviation of one estimate, nats")
    if measured:
        panels[1].set(title="policy gradient of a batch, relative to the exact one's norm")
        panels[1].set_xlabel("bias of the mean (hollow: not told from 0, at the floor of detection)")
        panels[1].set_ylabel("standard deviation of one batch")
    handles = {text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _looks(rows: list[Row]) -> list[tuple[Row, str, str]]:
    """A colour for each estimator, a marker for each of its settings."""
    names = list(dict.fromkeys(row.estimator for row in rows))
    kinds = {name: list(dict.fromkeys(_kind(row) for row in rows if row.estimator == name)) for name in names}
    return [
        (
            row,
            COLOURS[names.index(row.estimator) % len(COLOURS)],
            MARKERS[
                (kinds[row.estimator].index(_kind(row)) + names.index(row.estimator) // len(COLOURS)) % len(MARKERS)
            ],
        )
        for row in rows
    ]


def _kind(row: Row) -> str:
    return " ".join(part for part in (row.estimator, row.settings, row.ratio == "plain" and "plain") if part)


def _mark(axes: Axes, row: Row, x: float, y: float, colour: str, marker: str, hollow: bool) -> None:
    """A marker as large as the estimate is dear, with its number of states."""
    states = 0 if math.isnan(row.forwards) else int(row.forwards)
    axes.scatter(
        [x],
        [y],
        s=45 + 25 * states,
        marker=marker,
        facecolors="none" if hollow else colour,
        edgecolors=colour,
        linewidths=1.5,
        label=_kind(row),
        alpha=0.85,
    )
    axes.annotate(str(states) if states else "", (x, y), xytext=(6, 5), textcoords="offset points", fontsize=8)
