"""The table says tie where the interval contains 0."""

import os

from boards import record
from rich.console import Console

from trainers.studies.leaderboard.report import tables
from trainers.studies.leaderboard.rows import rows


def test_the_table_says_tie_where_the_interval_contains_0_and_only_there(board):
    cells = {
        "start": {seed: record("start", seed, "0" * 400) for seed in (0, 1)},
        "first": {seed: record("first", seed, "10" * 200) for seed in (0, 1)},
        "second": {seed: record("second", seed, "1" * 400) for seed in (0, 1)},
    }
    cells["second"][0] = record("second", 0, "01" * 200)  # as many right, but others
    cells["second"][1] = record("second", 1, "10" * 200)
    console = Console(width=120, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    for table in tables(board, rows(board, cells)):
        console.print(table)
    lines = console.export_text().splitlines()
    assert all("-50.0 [" in line and "tie" not in line for line in lines if line.strip().startswith("start"))
    assert all("+0.0 [" in line and "tie" in line for line in lines if line.strip().startswith("second"))
    assert sum("tie" in line for line in lines) == 2
