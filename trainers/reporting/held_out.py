"""Held-out accuracy before and after a run: the line for the terminal, the numbers and the samples for the report."""

from typing import Any

from datasets import Dataset

from trainers.evaluating.evaluation import Evaluation, summarise
from trainers.tasks.messages import text_of

SAMPLES = 4  # completions shown before and after
Outcomes = dict[str, Evaluation]


def held_out_line(when: str, evaluations: Outcomes) -> str:
    """One line for the terminal."""
    parts = [f"{mode} {e.accuracy('strict')} (lenient {e.accuracy('lenient')})" for mode, e in evaluations.items()]
    return f"held-out accuracy {when}: " + ", ".join(parts)


def held_out_tables(before: Outcomes | None, after: Outcomes) -> dict[str, Any]:
    """before / after / difference for the report."""
    tables = {"after": summarise(after)}
    if before:
        tables["before"] = summarise(before)
        tables["difference"] = {
            f"{mode} {parser}": vars(after[mode].gain_over(before[mode], parser))
            for mode in after
            for parser in ("strict", "lenient")
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
