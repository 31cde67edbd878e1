"""Held-out accuracy and rewards before and after a run: for the terminal, and numbers and samples for the report."""

from typing import Any

from datasets import Dataset

from trainers.evaluating.evaluation import Evaluation, summarise
from trainers.tasks.messages import text_of
from trainers.tasks.verdicts import is_reward

SAMPLES = 4  # completions shown before and after
Outcomes = dict[str, Evaluation]


def held_out_line(when: str, evaluations: Outcomes) -> str:
    """What was measured, for the terminal: a line for accuracy, and one for every reward of the user's."""
    lines, measures = [], next(iter(evaluations.values())).measures
    if "strict" in measures:
        parts = [f"{mode} {e.accuracy('strict')} (lenient {e.accuracy('lenient')})" for mode, e in evaluations.items()]
        lines.append(f"held-out accuracy {when}: " + ", ".join(parts))
    for measure in filter(is_reward, measures):
        parts = [f"{mode} {e.score(measure)}" for mode, e in evaluations.items()]
        lines.append(f"held-out {measure} {when}, mean [95%]: " + ", ".join(parts))
    return "\n".join(lines) or f"held-out texts {when}: in the report; no reward and no answer scores them"


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
