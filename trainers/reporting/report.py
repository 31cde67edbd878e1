"""What a run leaves for its reader: report.md, results.json (the same numbers), curves.png and report.html.

The parts are in `tables` (sections of report.md), `curves` (the picture), `page` (report.html) and `history` (the
log that they read).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.reporting.curves import draw_curves
from trainers.reporting.history import Log, Row, evenly, time_split, training_rows
from trainers.reporting.markdown import markdown_table, plain, yaml_block
from trainers.reporting.page.content import run_content
from trainers.reporting.page.document import write_page
from trainers.reporting.tables import (
    column_labels,
    held_out_table,
    metrics_over_run,
    rewards_section,
    samples_table,
    time_table,
    with_error,
)
from trainers.rewarding.hacking import reward_summary
from trainers.rewarding.log import read_rewards
from trainers.saving.files import replace_file
from trainers.tasks.verdicts import only_rewards

CURVES = "curves.png"
PAGE = "report.html"


@dataclass(frozen=True)
class _Findings:
    """What the log and the rewards' own record say, worked out once for the text and for the JSON."""

    rewards: Row  # weights and failures, as `read_rewards` found them
    summary: Row  # start and end of every reward
    split: Mapping[str, float]  # seconds of a step by part
    columns: Mapping[str, str]  # of the metrics table: key in the log -> label
    picked: Log  # its rows


def write_report(
    directory: str | Path,
    *,
    title: str,
    command: str,
    settings: dict[str, Any],
    environment: dict[str, Any],
    log_history: Log,
    held_out: Mapping[str, Any] | None,
    samples: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    notes: Sequence[str],
    solved: Mapping[str, Any] | None = None,
) -> Path:
    """Write report.md, results.json (the same numbers), the curves of a run and report.html.

    Args:
        directory: where to; made if it is missing.
        title: heading.
        command: what was run, as typed.
        settings: deviations from the defaults.
        environment: machine and versions.
        log_history: `trainer.state.log_history`.
        held_out: "before", "after", "difference" -> name -> {"value", "low", "high"}; each may be missing.
        samples: completions to show; the keys of the first one are the columns.
        seconds: wall time by phase.
        notes: sentences for the reader.
        solved: held-out problems with their texts, for report.html alone (`page.solved`); None: there are none.

    Returns:
        The path of report.md.
    """
    directory, held_out = Path(directory), held_out or {}
    found = _findings(directory, log_history, held_out)
    draw_curves(log_history, directory / CURVES, held_out)
    sections = {
        "Command": f"```bash\n{command}\n```",
        **_measured_sections(found, held_out, seconds),
        "Sample completions": samples_table(samples),
        "Settings that deviate from the defaults": yaml_block(settings),
        "Machine and versions": markdown_table(("what", "value"), environment.items()),
        "Notes": "\n".join(f"- {note}" for note in notes),
    }
    given = {"title": title, "command": command, "environment": environment, "settings": settings}
    shown = {"samples": samples, "notes": notes, "log_history": log_history}
    results = {**given, "held_out": held_out, **_measured_results(found, seconds), **shown}
    replace_file(directory / "results.json", (json.dumps(plain(results), indent=2, allow_nan=False) + "\n").encode())
    write_page(directory / PAGE, title, run_content(directory, results, solved))
    replace_file(directory / "report.md", _document(title, sections).encode())
    return directory / "report.md"


def _findings(directory: Path, log_history: Log, held_out: Mapping[str, Any]) -> _Findings:
    rows = training_rows(log_history)
    return _Findings(
        rewards=read_rewards(directory),
        summary=reward_summary(rows, held_out),
        split=time_split(rows),
        columns=column_labels(rows),
        picked=evenly(rows),
    )


def _measured_sections(found: _Findings, held_out: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, str]:
    """The sections that hold numbers: heading -> markdown."""
    measured = "Held-out rewards" if only_rewards(held_out.get("after") or ()) else "Held-out accuracy"
    return {
        measured: held_out_table(held_out),
        "Rewards and strict accuracy": rewards_section(found.summary, held_out, found.rewards),
        "Curves": f"![curves of the run]({CURVES})",
        "Metrics over the run": metrics_over_run(found.picked, found.columns),
        "Time": time_table(found.split, seconds),
    }


def _measured_results(found: _Findings, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The same numbers for results.json."""
    return {
        "rewards": {**found.summary, **found.rewards},
        "seconds_per_step": found.split,
        "seconds": seconds,
        "metrics_over_run": [
            {key: row.get(key) for key in with_error(found.columns, found.picked)} for row in found.picked
        ],
    }


def _document(title: str, sections: Mapping[str, str]) -> str:
    """The whole of report.md; a section without text is left out."""
    files = f"Numbers: [results.json](results.json). Picture: [{CURVES}]({CURVES}). Page: [{PAGE}]({PAGE})."
    body = [f"## {heading}\n\n{text}" for heading, text in sections.items() if text]
    return "\n\n".join([f"# {title}", files, *body]) + "\n"
