"""What the finished cells say to a reader: tables for the terminal, sentences, results.csv and results.json."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from trainers.saving.files import replace_file
from trainers.studies.leaderboard.board import Leaderboard
from trainers.studies.leaderboard.budgets import BUDGETS
from trainers.studies.leaderboard.cells import Cells, outcomes, write_json
from trainers.studies.leaderboard.picture import curve, draw
from trainers.studies.leaderboard.rows import MEASURES, UNITS, Row


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
    replace_file(directory / "results.csv", _as_csv(flat).encode())
    results = {
        "board": vars(board),
        "notes": notes(board, cells),
        "rows": flat,
        "by_seed": _by_seed(cells),
        "validation": {name: curve(records) for name, records in cells.items() if name in board.entries},
    }
    write_json(directory / "results.json", results)
    draw(board, cells, found, directory / "leaderboard.png")


def _as_csv(records: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _by_seed(cells: Cells) -> list[dict[str, Any]]:
    """Every finished cell within each budget, before seeds are averaged."""
    return [
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
    ]
