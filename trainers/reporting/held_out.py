"""Held-out accuracy and rewards before and after a run: for the terminal, and numbers and samples for the report."""

from typing import Any

from datasets import Dataset
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainers.evaluating.evaluation import summarise
from trainers.evaluating.first import Outcomes
from trainers.evaluating.statistics import change_text
from trainers.reporting.terminal_table import print_table
from trainers.tasks.messages import text_of
from trainers.tasks.verdicts import is_reward

SAMPLES = 4  # completions shown before and after


def print_held_out(console: Console, before: Outcomes | None, after: Outcomes | None) -> None:
    """Print `held_out_scores`; in blocks of lines where the terminal is too narrow, as for rewards with long names."""
    shown = held_out_scores(before, after)
    if isinstance(shown, Table):
        print_table(console, shown, keys=1)
    else:
        console.print(shown)


def held_out_scores(before: Outcomes | None, after: Outcomes | None) -> Table | Text:
    """What was measured, for the terminal: a line a decoding and measure, with 95% intervals; 80 columns hold it."""
    measured = {when: outcomes for when, outcomes in (("before", before), ("after", after)) if outcomes}
    last = after or before or {}
    rows = [(mode, measure) for mode in last for measure in last[mode].measures]
    if not rows:
        return Text("held-out texts: in the report; no reward and no answer scores them", style="dim")
    rewards = any(is_reward(measure) for _, measure in rows)
    shown = Table("held out", box=SIMPLE, collapse_padding=True, show_edge=False)
    for heading in (*measured, *(("gained" if rewards else "points gained",) if len(measured) == 2 else ())):
        shown.add_column(heading, no_wrap=True)
    for mode, measure in rows:
        cells = [str(outcomes[mode].score(measure)) for outcomes in measured.values()]
        if before and after:
            cells.append(change_text(measure, vars(after[mode].change_from(before[mode], measure))))
        shown.add_row(f"{mode}, {measure}", *cells)
    return shown


def held_out_tables(before: Outcomes | None, after: Outcomes) -> dict[str, Any]:
    """before / after / difference for the report."""
    tables = {"after": summarise(after)}
    if before:
        tables["before"] = summarise(before)
        tables["difference"] = {
            f"{mode} {measure}": vars(after[mode].change_from(before[mode], measure))
            for mode in after
            for measure in after[mode].measures
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
