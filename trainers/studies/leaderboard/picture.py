"""The picture of a leaderboard: test accuracy of every entry in both budgets, and validation on the way."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from trainers.reporting.figures import BLUE, ORANGE, REWARD_COLOURS, label_axes, new_figure, save_figure
from trainers.studies.leaderboard.board import Leaderboard
from trainers.studies.leaderboard.budgets import BUDGETS, FORWARDS, SECONDS
from trainers.studies.leaderboard.cells import Cells, Records
from trainers.studies.leaderboard.rows import HEADLINE, UNITS, Row

COLOURS = {FORWARDS: BLUE, SECONDS: ORANGE}
DASHES = ("-", "--", ":", "-.")


def curve(records: Records) -> list[tuple[float, float]]:
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
    figure = new_figure(15, 3 + 0.42 * len(names))
    accuracy, validation = figure.subplots(1, 2)
    _draw_accuracy(accuracy, board, names, found)
    _draw_validation(validation, {name: cells[name] for name in names if name in board.entries})
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


def _draw_validation(axes: Axes, cells: Cells) -> None:
    """The curve of each entry; colours come first, then dashes tell entries apart."""
    label_axes(axes, "On the way, mean over seeds", "validation accuracy, sampled strict (%)", UNITS[FORWARDS])
    palette = (BLUE, *REWARD_COLOURS)
    for index, (name, records) in enumerate(cells.items()):
        points = np.array(curve(records)).reshape(-1, 2)
        colour, dashes = palette[index % len(palette)], DASHES[index // len(palette) % len(DASHES)]
        axes.plot(points[:, 0], 100 * points[:, 1], dashes, color=colour, marker="o", markersize=4, label=name)
    if axes.has_data():
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
