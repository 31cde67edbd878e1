"""What every picture here shares: colours, labelled axes, a line of one metric, and the file that is written."""

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from trainers.reporting.history import Log, series
from trainers.saving.files import replace_file

# Okabe & Ito's palette: distinct for colour-blind readers and in print
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
REWARD_COLOURS = (ORANGE, GREEN, PURPLE, SKY, RED)


def new_figure(width: float, height: float) -> Figure:
    """An empty picture of so many hundred pixels, with room between its panels."""
    return Figure(figsize=(width, height), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def label_axes(axes: Axes, title: str, quantity: str, x: str = "optimiser step") -> None:
    """Title, names of both axes and a faint grid; ``quantity`` names its unit."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(quantity)
    axes.grid(alpha=0.3)


def draw_line(
    axes: Axes, rows: Log, key: str, colour: str, label: str | None = None, width: float = 2.0, style: str = "-"
) -> None:
    """One metric over the steps; a remark in place of a metric that was never logged."""
    steps, values = series(rows, key)
    if len(steps) == 0:
        return remark(axes, f"{key} was not logged")
    locator = axes.xaxis.get_major_locator()
    assert isinstance(locator, MaxNLocator)  # a linear axis has one
    locator.set_params(integer=True)
    marker = "o" if len(steps) <= 40 else ""  # dots of longer runs would cover the line
    size = 3 + width / 2
    axes.plot(steps, values, style, color=colour, label=label, linewidth=width, marker=marker, markersize=size)


def remark(axes: Axes, text: str) -> None:
    """Say in the middle of a panel why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color="0.4")
    axes.set(xticks=[], yticks=[])


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the PNG whole or not at all, without frames on top and on the right."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    replace_file(Path(path), image.getvalue())
