"""What a comparison writes holds every column."""

import csv
import json

from comparing import EMPTY

from trainers.studies.estimators.gradients import reinforce_row
from trainers.studies.estimators.report import tables, write
from trainers.studies.estimators.rows import Row


def test_files_hold_every_column_and_what_was_not_measured_is_empty(tmp_path, bench):
    full, _ = bench.measure(bench.variant(num_draws=1))
    paths = write(tmp_path, [reinforce_row(bench.batches, bench.target), full, EMPTY], {"seed": 3})
    assert [path.name for path in paths] == ["estimators.csv", "estimators.json", "estimators.png"]
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == Row.columns() and float(rows[1]["bias"]) == full.bias
    assert rows[0]["forwards"] == "" and rows[2]["gradient_std"] == ""
    record = json.loads(paths[1].read_text())
    assert record["seed"] == 3 and record["rows"][2]["gradient_std"] is None
    assert paths[2].stat().st_size > 10_000
    assert [len(tables(some)) for some in ([full], [EMPTY])] == [2, 1]
