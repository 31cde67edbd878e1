"""Held-out accuracy before and after a run: the table for the terminal, the numbers and the samples for the report."""

from typing import Any

from datasets import Dataset
from rich.box import SIMPLE
from rich.table import Table

from trainers.evaluating.evaluation import PARSERS, summarise
from trainers.evaluating.first import Outcomes
from trainers.reporting.tables import points
from trainers.tasks.messages import text_of

SAMPLES = 4  # completions shown before and after


def held_out_accuracy(before: Outcomes | None, after: Outcomes | None) -> Table:
    """What was measured, for the terminal: a line a decoding and parser, with 95% intervals; 80 columns hold it."""
    measured = {when: outcomes for when, outcomes in (("before", before), ("after", after)) if outcomes}
    shown = Table("held-out accuracy", box=SIMPLE, collapse_padding=True, show_edge=False)
    for heading in (*measured, *(("points gained",) if len(measured) == 2 else ())):
        shown.add_column(heading, no_wrap=True)
    last = after or before or {}
    for mode, parser in ((mode, parser) for mode in last for parser in PARSERS):
        cells = [str(outcomes[mode].accuracy(parser)) for outcomes in measured.values()]
        if before and after:
            cells.append(points(vars(after[mode].gain_over(before[mode], parser))))
        shown.add_row(f"{mode}, {parser}", *cells)
    return shown


def held_out_tables(before: Outcomes | None, after: Outcomes) -> dict[str, Any]:
    """before / after / difference for the report."""
    tables = {"after": summarise(after)}
    if before:
        tables["before"] = summarise(before)
        tables["difference"] = {
            f"{mode} {parser}": vars(after[mode].gain_over(before[mode], parser))
            for mode in after
            for parser in PARSERS
        }
    return tables


def sample_rows(problems: Dataset, before: Outcomes | None, after: Outcomes) -> list[dict[str, str]]:
    """A few problems with what was sampled for them."""
    return [
        {
            "prompt": text_of(problems[i]["prompt"]),
            "answer": problems[i]["answer"],
            "before": before["sampled"].completions[i] if before else "",
            "after": after["sampled"].completions[i],
        }
        for i in range(min(SAMPLES, len(problems)))
    ]
