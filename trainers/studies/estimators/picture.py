"""The picture of a comparison: bias against spread, a mark an estimator."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainers.reporting.figures import BLUE, GREEN, ORANGE, PURPLE, RED, SKY
from trainers.studies.estimators.rows import REINFORCE, Row, has_gradients

# markers too, so that estimators beyond the eight colours differ
COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, "#000000", "#999999")
MARKERS = "osD^vPX*<>"
ROUNDING = 1e-4  # nats that float32 may be off


def picture(rows: list[Row]) -> Figure:
    """Bias against spread, of the likelihood and, where it was measured, of the gradient."""
    measured = has_gradients(rows)
    figure = Figure(figsize=(15 if measured else 9, 8), dpi=100, layout="constrained")
    panels = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    for row, colour, marker in _looks(rows):
        if row.estimator != REINFORCE:
            fair = row.bias_low <= ROUNDING and row.bias_high >= -ROUNDING
            _mark(panels[0], row, row.bias, row.std, colour, marker, hollow=fair)
        if measured:
            bias = max(row.gradient_bias, row.gradient_bias_floor)
            _mark(panels[1], row, bias, row.gradient_std, colour, marker, hollow=not row.biased)
    _label_likelihood(panels[0])
    if measured:
        _label_gradient(panels[1])
    handles = {text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _label_likelihood(axes: Axes) -> None:
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set(title="log-likelihood of a completion", xlabel="bias, nats (hollow: 95% interval holds 0)")
    axes.set_ylabel("standard deviation of one estimate, nats")


def _label_gradient(axes: Axes) -> None:
    axes.set(title="policy gradient of a batch, relative to the exact one's norm")
    axes.set_xlabel("bias of the mean (hollow: not told from 0, at the floor of detection)")
    axes.set_ylabel("standard deviation of one batch")


def _looks(rows: list[Row]) -> list[tuple[Row, str, str]]:
    """A colour for each estimator, a marker for each of its settings."""
    names = list(dict.fromkeys(row.estimator for row in rows))
    kinds = {name: list(dict.fromkeys(_kind(row) for row in rows if row.estimator == name)) for name in names}
    looks = []
    for row in rows:
        number = names.index(row.estimator)
        turn = kinds[row.estimator].index(_kind(row)) + number // len(COLOURS)  # colours that come again
        looks.append((row, COLOURS[number % len(COLOURS)], MARKERS[turn % len(MARKERS)]))
    return looks


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
