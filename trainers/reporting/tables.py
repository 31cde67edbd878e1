"""The tables of report.md, a function each: from numbers to the markdown of one section.

An empty text says that a section has nothing to tell and is left out. A metric that was not logged has no column.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainers.evaluating.statistics import change_text, score_text
from trainers.reporting.history import Log, Row, has, nelbo_error, reward_means
from trainers.reporting.markdown import ABSENT, markdown_table, number
from trainers.rewarding.hacking import HEADER, reward_table
from trainers.rewarding.log import STRICT
from trainers.tasks.verdicts import is_reward

# key in the log -> column of the table, in order; the rewards' own means follow "reward"
LABELS = {
    "loss": "loss",
    "reward": "reward",
    STRICT: "strict accuracy",
    "nelbo": "NELBO (nats per completion)",
    "rewards/margins": "reward margin",
    "rewards/accuracies": "pairs ranked right",
    "kl": "KL (nats per token)",
    "ratio_log_std": "log ratio, r.m.s. (nats per token)",
    "entropy": "entropy (nats per token)",
    "cross_entropy": "cross-entropy (nats per token)",
    "scheduled_sampling/probability": "rollout probability",
    "scheduled_sampling/accuracy": "self-revealed accuracy",
    "scheduled_sampling/exposure_bias": "exposure bias (nats, see docs)",
    "completions/mean_length": "length (tokens)",
    "rollout/forwards_per_completion": "forwards per completion",
    "rollout/tokens_per_second": "rollout tokens/s",
    "loss/tokens_per_second": "loss tokens/s",
}


def column_labels(rows: Log) -> dict[str, str]:
    """Columns of the table of metrics that this run has: key in the log -> label."""
    labels: dict[str, str] = {}
    for key, label in LABELS.items():
        labels |= {key: label} | (reward_means(rows) if key == "reward" else {})
    # GRPO's loss is near 0 whatever happens; the spread of ratios stands in for a KL that beta = 0 leaves out
    skipped = {"loss"} if has(rows, "reward") else set()
    skipped |= {"ratio_log_std"} if has(rows, "kl") else set()
    if any(nelbo_error(row) is not None for row in rows):
        labels["nelbo"] = labels["nelbo"].replace("NELBO", "NELBO ± s.e.")
    return {key: label for key, label in labels.items() if key not in skipped and has(rows, key)}


def with_error(columns: Mapping[str, str], rows: Log) -> list[str]:
    """Keys of the metrics table, the bound's error among them where it has one."""
    erring = any(nelbo_error(row) is not None for row in rows)
    return ["step", *columns, *(["nelbo_standard_error"] if erring else [])]


def metrics_over_run(rows: Log, columns: Mapping[str, str]) -> str:
    """A line a row of the log, a column a metric; the bound with its Monte-Carlo standard error, if it has one."""

    def cell(row: Row, key: str) -> str:
        error = nelbo_error(row) if key == "nelbo" else None
        return number(row.get(key)) + (f" ± {number(error, 2)}" if error is not None else "")

    if not columns:
        return "No metrics were logged."
    table = [(number(row.get("step")), *(cell(row, key) for key in columns)) for row in rows]
    return markdown_table(("step", *columns.values()), table)


def held_out_table(held_out: Mapping[str, Any]) -> str:
    """Accuracies and mean rewards before and after the run and the paired difference, with 95% intervals."""
    names = list(dict.fromkeys(name for entries in held_out.values() for name in entries or ()))

    def cell(when: str, name: str, form: Callable[[str, Mapping[str, float]], str]) -> str:
        entry = (held_out.get(when) or {}).get(name)
        return form(name, entry) if entry else ABSENT

    forms = {"before": score_text, "after": score_text, "difference": change_text}
    table = [(name, *(cell(when, name, form) for when, form in forms.items())) for name in names]
    rewards = any(map(is_reward, names))
    header = ("measured", "before [95%]", "after [95%]", f"difference{'' if rewards else ', points'} [95%]")
    return markdown_table(header if rewards else ("accuracy", *header[1:]), table) if table else "Not measured."


def rewards_section(summary: Row, held_out: Mapping[str, Any], rewards: Row) -> str:
    """Start and end of every reward beside strict accuracy's, and how rewards failed; empty where none was logged."""
    parts = []
    lines = reward_table(summary, held_out, rewards.get("weights", {}))
    if lines:
        parts += [_table_with_gaps(HEADER, lines), _hacking_verdict(summary["flagged"])]
    failures = rewards.get("failures", [])
    if failures:
        header = ("reward", "failure", "failed calls", "completions left out", "last step", "last message", "of")
        keys = ("reward", "kind", "calls", "completions", "step", "message", "completion")
        parts.append(_table_with_gaps(header, [[entry[key] for key in keys] for entry in failures]))
    return "\n\n".join(parts)


def _table_with_gaps(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    return markdown_table(header, [[ABSENT if value is None else value for value in line] for line in lines])


def _hacking_verdict(flagged: Sequence[str]) -> str:
    """Which rewards rise while strict accuracy falls, and the rule that said so."""
    names = ", ".join("the total" if name == "reward" else name for name in flagged)
    verdict = f"**Reward hacking?** While strict accuracy falls, these rise: {names}. " if names else ""
    rule = "Start and end are the means of the first and the last fifth of the log; a change beyond 2 standard "
    return f"{verdict}{rule}errors counts (`trainers/rewarding/hacking.py`)."


def time_table(split: Mapping[str, float], seconds: Mapping[str, float]) -> str:
    """Seconds of an optimiser step by part, where they were logged, and wall time by phase."""
    whole = split.get("whole step") or math.nan
    steps = [(part, number(value, 3), f"{value / whole:.0%}") for part, value in split.items()]
    tables = [
        markdown_table(("part of a step", "seconds per optimiser step", "share"), steps) if steps else "",
        markdown_table(("phase", "wall-clock seconds"), [(k, number(v)) for k, v in seconds.items()]),
    ]
    return "\n\n".join(table for table in tables if table)


def samples_table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Completions side by side; the keys of the first one are the columns."""
    if not samples:
        return ""
    header = list(samples[0])
    return markdown_table(header, [[sample.get(key, "") for key in header] for sample in samples])
