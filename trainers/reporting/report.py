"""What a run leaves for its reader: report.md, results.json, the PNG curves, and a table for the terminal.

Everything is read from `trainer.state.log_history`, a list of dicts with "step" and metrics. Three kinds of entries
share that list: training rows, evaluations (keys "eval_...") and the summary at the end ("train_runtime", ...). A
metric that was not logged is left out of a table and said to be missing in a picture; it never stops a report.
"""

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from trainers.evaluating.statistics import Z95, Interval
from trainers.rewarding.hacking import HEADER, reward_summary, reward_table
from trainers.rewarding.log import STRICT, read_rewards
from trainers.saving.files import replace_file

Row = Mapping[str, Any]
Log = Sequence[Row]

CURVES = "curves.png"
TABLE_ROWS = 10
ABSENT = "–"  # noqa: RUF001 (an en dash in an empty cell)

# Keys of the log that say where a row stands, not how training goes; "train_..." is the summary's own.
BOOKKEEPING = {"step", "epoch", "total_flos", "num_tokens", "num_input_tokens_seen"}
TIMED = ("rollout", "scoring", "scheduled_sampling", "backward")

# key in the log -> column of the table, in order; the rewards' own means follow "reward"
LABELS = {
    "loss": "loss",
    "reward": "reward",
    STRICT: "strict accuracy",
    "nelbo": "NELBO ± s.e. (nats per completion)",
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

# group of the terminal's table -> beginnings of its keys; the first group that fits takes a key
GROUPS = {
    "reward": ("reward", "frac_reward", "accuracy/"),
    "bound": ("nelbo", "cross_entropy"),
    "scheduled sampling": ("scheduled_sampling/",),
    "ratio": ("kl", "ratio", "clip_ratio", "sampling/", "entropy"),
    "rollout": ("rollout/", "completions/"),
    "time": ("step_time", "time/", "loss/"),
    "optimiser": ("loss", "grad_norm", "learning_rate"),
}

# Okabe & Ito's palette: distinct for colour-blind readers and in print
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
REWARD_COLOURS = (ORANGE, GREEN, PURPLE, SKY, RED)
WHEN = {"before": (RED, -0.13, "right"), "after": (BLUE, 0.13, "left")}


# ---- the log --------------------------------------------------------------------------------------------------------


def _training_rows(log_history: Log) -> list[Row]:
    """Entries with metrics of training steps; the summary is one only if TRL merged the last metrics into it."""

    def is_metric(key: str) -> bool:
        return key not in BOOKKEEPING and not key.startswith(("eval_", "train_"))

    return [row for row in log_history if any(map(is_metric, row))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _series(rows: Log, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric, where it is a finite number."""
    pairs = [(row.get("step", index), row[key]) for index, row in enumerate(rows) if _is_number(row.get(key))]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.asarray(steps, dtype=float), np.asarray(values, dtype=float)


def _has(rows: Log, key: str) -> bool:
    return any(_is_number(row.get(key)) for row in rows)


def _reward_keys(rows: Log) -> dict[str, str]:
    """The reward functions' means: key in the log -> name of the function, in order of appearance."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("rewards/") and key.endswith("/mean"))
    return {key: key.removeprefix("rewards/").removesuffix("/mean") for key in keys if _has(rows, key)}


def _column_labels(rows: Log) -> dict[str, str]:
    """Columns of the table of metrics that this run has: key in the log -> label."""
    labels: dict[str, str] = {}
    for key, label in LABELS.items():
        labels |= {key: label} | (_reward_keys(rows) if key == "reward" else {})
    # GRPO's loss is near 0 whatever happens; the spread of ratios stands in for a KL that beta = 0 leaves out
    skipped = {"loss"} if _has(rows, "reward") else set()
    skipped |= {"ratio_log_std"} if _has(rows, "kl") else set()
    return {key: label for key, label in labels.items() if key not in skipped and _has(rows, key)}


def _evenly(rows: Log, count: int = TABLE_ROWS) -> list[Row]:
    """At most ``count`` rows, the first and the last among them."""
    picks = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[i] for i in picks]


def _time_split(rows: Log) -> dict[str, float]:
    """Mean seconds of an optimiser step by part, "rest" being what is left of "step_time"; {} if not logged."""
    timed = [row for row in rows if _is_number(row.get("step_time"))]
    if not timed:
        return {}

    def mean(key: str) -> float:
        # a step that replays an earlier rollout spends no time on one: absent counts as 0
        return sum(row[key] for row in timed if _is_number(row.get(key))) / len(timed)

    parts = {part: mean(f"time/{part}") for part in TIMED if _has(timed, f"time/{part}")}
    whole = mean("step_time")
    return {**parts, "rest": whole - sum(parts.values()), "whole step": whole}


# ---- pictures -------------------------------------------------------------------------------------------------------


def curves_png(log_history: Log, path: str | Path, held_out: Mapping[str, Any] | None) -> None:
    """Draw a GRPO run in four panels: rewards, bound, KL (or spread of ratios), held-out accuracy; 1200 x 900 pixels.

    Args:
        log_history: `trainer.state.log_history`.
        path: the PNG to write.
        held_out: "before" and "after" (either may be missing) -> name ("sampled strict", ...) -> {"value", "low",
            "high"}.
    """
    rows = _training_rows(log_history)
    figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    (reward, bound), (ratio, accuracy) = figure.subplots(2, 2)
    _draw_rewards(reward, rows)
    _draw_bound(bound, rows)
    if _has(rows, "kl") or not _has(rows, "ratio_log_std"):
        label_axes(ratio, "KL to the reference policy", "KL (nats per token)")
        _draw_line(ratio, rows, "kl", BLUE)
    else:
        label_axes(ratio, "Spread of the policy ratio (no KL logged: beta = 0)", "log ratio, r.m.s. (nats per token)")
        _draw_line(ratio, rows, "ratio_log_std", BLUE)
    _draw_held_out(accuracy, held_out or {})
    save_figure(figure, path)


def sft_curves_png(log_history: Log, path: str | Path) -> None:
    """Draw an SFT run in two panels: loss in training and validation, and the bound; 1200 x 500 pixels."""
    rows = _training_rows(log_history)
    figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    loss, bound = figure.subplots(1, 2)
    label_axes(loss, "Loss", "nats per canvas token")
    _draw_line(loss, rows, "loss", BLUE, label="training")
    if _has(log_history, "eval_loss"):
        _draw_line(loss, log_history, "eval_loss", RED, label="validation")
    if loss.has_data():
        loss.legend()
    if _has(rows, "cross_entropy"):
        _draw_cross_entropy(bound, rows)
    else:
        _draw_bound(bound, rows)
    save_figure(figure, path)


def preference_curves_png(log_history: Log, path: str | Path) -> None:
    """Draw a DPO run in two panels: loss, and the margin by which it ranks the pairs; 1200 x 500 pixels."""
    rows = _training_rows(log_history)
    figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    loss, margin = figure.subplots(1, 2)
    label_axes(loss, "Loss", "mean of the pairs' losses")
    label_axes(margin, "Implicit reward", "beta x log ratio to the reference (nats per text)")
    _draw_line(loss, rows, "loss", BLUE, label="training")
    lines = {"margins": BLUE, "chosen": GREEN, "rejected": ORANGE}
    for name, colour in lines.items():
        _draw_line(margin, rows, f"rewards/{name}", colour, label=name.replace("margins", "margin"))
    for axes, key in ((loss, "eval_loss"), (margin, "eval_rewards/margins")):
        if _has(log_history, key):
            _draw_line(axes, log_history, key, RED, label="validation")
        axes.legend()
    save_figure(figure, path)


def label_axes(axes: Axes, title: str, quantity: str, x: str = "optimiser step") -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(quantity)
    axes.grid(alpha=0.3)


def _draw_line(
    axes: Axes, rows: Log, key: str, colour: str, label: str | None = None, width: float = 2.0, style: str = "-"
) -> None:
    """One metric over the steps; a remark in place of a metric that was never logged."""
    steps, values = _series(rows, key)
    if len(steps) == 0:
        return _remark(axes, f"{key} was not logged")
    axes.xaxis.get_major_locator().set_params(integer=True)
    marker = "o" if len(steps) <= 40 else ""  # dots of longer runs would cover the line
    size = 3 + width / 2
    axes.plot(steps, values, style, color=colour, label=label, linewidth=width, marker=marker, markersize=size)


def _remark(axes: Axes, text: str) -> None:
    """Say in the middle of a panel why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color="0.4")
    axes.set(xticks=[], yticks=[])


def _draw_rewards(axes: Axes, rows: Log) -> None:
    label_axes(axes, "Reward", "mean reward per completion")
    for index, (key, name) in enumerate(_reward_keys(rows).items()):
        _draw_line(axes, rows, key, REWARD_COLOURS[index % len(REWARD_COLOURS)], label=name, width=1.2)
    _draw_line(axes, rows, "reward", BLUE, label="reward (total)", width=2.4)
    if _has(rows, STRICT):  # dashed: where correctness is rewarded the two lines are one
        _draw_line(axes, rows, STRICT, "black", label="strict accuracy", width=1.6, style="--")
    axes.margins(y=0.1)
    # beneath the panel: reward curves fill it from floor to ceiling, so no corner is safe
    if axes.has_data():
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)


def _draw_bound(axes: Axes, rows: Log) -> None:
    label_axes(axes, "Bound on -log p(completion)", "NELBO (nats per completion)")
    rolled_out = "scheduled_sampling/nelbo_rolled_out"
    if _has(rows, "nelbo") or not _has(rows, rolled_out):
        _draw_line(axes, rows, "nelbo", BLUE, label="NELBO")
    both = [row for row in rows if _is_number(row.get("nelbo")) and _is_number(row.get("nelbo_standard_error"))]
    if both:
        steps, bound = _series(both, "nelbo")
        band = Z95 * _series(both, "nelbo_standard_error")[1]
        label = f"± {Z95} Monte-Carlo standard errors"
        axes.fill_between(steps, bound - band, bound + band, color=BLUE, alpha=0.2, linewidth=0, label=label)
    if _has(rows, rolled_out):
        _draw_line(axes, rows, rolled_out, RED, label="the same at rolled-out states (no bound)", width=1.2)
    if both or _has(rows, rolled_out):
        axes.legend()


def _draw_cross_entropy(axes: Axes, rows: Log) -> None:
    label_axes(axes, "Flow matching", "cross-entropy (nats per token)")
    _draw_line(axes, rows, "cross_entropy", BLUE, label="on the path")
    rolled_out = "scheduled_sampling/cross_entropy_rolled_out"
    if _has(rows, rolled_out):
        _draw_line(axes, rows, rolled_out, RED, label="at rolled-out states", width=1.2)
    axes.legend()


def _draw_held_out(axes: Axes, held_out: Mapping[str, Any]) -> None:
    """Points with 95% intervals, before beside after; an end that is not finite is not drawn."""
    label_axes(axes, "Held-out accuracy, 95% intervals", "problems solved (%)", x="")
    measured = {when: held_out[when] for when in WHEN if held_out.get(when)}
    names = list(dict.fromkeys(name for entries in measured.values() for name in entries))
    for when, entries in measured.items():
        colour, shift, side = WHEN[when]
        for name, entry in entries.items():
            x, value = names.index(name) + shift, 100 * entry["value"]
            ends = [abs(100 * entry[end] - value) if _is_number(entry[end]) else 0.0 for end in ("low", "high")]
            label = when if name == next(iter(entries)) else None
            axes.errorbar(x, value, [[ends[0]], [ends[1]]], fmt="o", color=colour, capsize=4, linewidth=2, label=label)
            axes.annotate(
                f"{value:.1f}", (x, value), (-7 if side == "right" else 7, 0), textcoords="offset points", ha=side,
                va="center", color=colour,
            )  # fmt: skip
    if not measured:
        return _remark(axes, "accuracy was not measured")
    axes.set_xticks(range(len(names)), [name.replace("_", " ").replace(" ", "\n", 1) for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.margins(y=0.12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def save_figure(figure: Figure, path: str | Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    replace_file(Path(path), image.getvalue())


# ---- the report -----------------------------------------------------------------------------------------------------


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
) -> Path:
    """Write report.md, results.json (the same numbers) and the curves of a run.

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

    Returns:
        The path of report.md.
    """
    directory, rows, held_out = Path(directory), _training_rows(log_history), held_out or {}
    split, columns = _time_split(rows), _column_labels(rows)
    picked = _evenly(rows)
    rewards, summary = read_rewards(directory), reward_summary(rows, held_out)
    if _has(rows, "rewards/margins"):
        preference_curves_png(log_history, directory / CURVES)
    # a run that logged steps but no reward is supervised
    elif rows and not _has(rows, "reward"):
        sft_curves_png(log_history, directory / CURVES)
    else:
        curves_png(log_history, directory / CURVES, held_out)
    sections = {
        "Command": f"```bash\n{command}\n```",
        "Held-out accuracy": _held_out_table(held_out),
        "Rewards and strict accuracy": _rewards_section(summary, held_out, rewards),
        "Curves": f"![curves of the run]({CURVES})",
        "Metrics over the run": _metrics_over_run(picked, columns),
        "Time": _time_table(split, seconds),
        "Sample completions": _samples_table(samples),
        "Settings that deviate from the defaults": _yaml_block(settings),
        "Machine and versions": _markdown_table(("what", "value"), environment.items()),
        "Notes": "\n".join(f"- {note}" for note in notes),
    }
    body = [f"## {heading}\n\n{text}" for heading, text in sections.items() if text]
    files = f"Numbers: [results.json](results.json). Picture: [{CURVES}]({CURVES})."
    results = {
        "title": title,
        "command": command,
        "environment": environment,
        "settings": settings,
        "held_out": held_out,
        "rewards": summary | rewards,
        "seconds_per_step": split,
        "seconds": seconds,
        "metrics_over_run": [{key: row.get(key) for key in _with_error(columns)} for row in picked],
        "samples": samples,
        "notes": notes,
        "log_history": log_history,
    }
    replace_file(directory / "results.json", (json.dumps(_plain(results), indent=2, allow_nan=False) + "\n").encode())
    report = directory / "report.md"
    replace_file(report, ("\n\n".join([f"# {title}", files, *body]) + "\n").encode())
    return report


def _held_out_table(held_out: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for entries in held_out.values() for name in entries or ()))

    def cell(when: str, name: str, form: Callable[[Mapping[str, float]], str]) -> str:
        entry = (held_out.get(when) or {}).get(name)
        return form(entry) if entry else ABSENT

    table = [
        (name, cell("before", name, _share), cell("after", name, _share), cell("difference", name, _points))
        for name in names
    ]
    header = ("accuracy", "before [95%]", "after [95%]", "difference, points [95%]")
    return _markdown_table(header, table) if table else "Not measured."


def _rewards_section(summary: Row, held_out: Mapping[str, Any], rewards: Row) -> str:
    """Start and end of every reward beside strict accuracy's, and how rewards failed; empty where none was logged."""

    def table(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
        return _markdown_table(header, [[ABSENT if value is None else value for value in line] for line in lines])

    parts = []
    lines = reward_table(summary, held_out, rewards.get("weights", {}))
    if lines:
        names = ", ".join("the total" if name == "reward" else name for name in summary["flagged"])
        verdict = f"**Reward hacking?** While strict accuracy falls, these rise: {names}. " if names else ""
        rule = "Start and end are the means of the first and the last fifth of the log; a change beyond 2 standard "
        parts += [table(HEADER, lines), f"{verdict}{rule}errors counts (`trainers/rewarding/hacking.py`)."]
    failures = rewards.get("failures", [])
    if failures:
        header = ("reward", "failure", "failed calls", "completions left out", "last step", "last message", "of")
        keys = ("reward", "kind", "calls", "completions", "step", "message", "completion")
        parts.append(table(header, [[entry[key] for key in keys] for entry in failures]))
    return "\n\n".join(parts)


def _share(entry: Mapping[str, float]) -> str:
    return str(Interval(**entry))


def _points(entry: Mapping[str, float]) -> str:
    value, low, high = (100 * entry[key] for key in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _with_error(columns: Mapping[str, str]) -> list[str]:
    """Keys of the metrics table, the bound's error among them."""
    return ["step", *columns, *(["nelbo_standard_error"] if "nelbo" in columns else [])]


def _metrics_over_run(rows: Log, columns: Mapping[str, str]) -> str:
    def cell(row: Row, key: str) -> str:
        error = row.get("nelbo_standard_error") if key == "nelbo" else None
        return _number(row.get(key)) + (f" ± {_number(error, 2)}" if _is_number(error) else "")

    if not columns:
        return "No metrics were logged."
    table = [(_number(row.get("step")), *(cell(row, key) for key in columns)) for row in rows]
    return _markdown_table(("step", *columns.values()), table)


def _time_table(split: Mapping[str, float], seconds: Mapping[str, float]) -> str:
    whole = split.get("whole step") or math.nan
    steps = [(part, _number(value, 3), f"{value / whole:.0%}") for part, value in split.items()]
    tables = [
        _markdown_table(("part of a step", "seconds per optimiser step", "share"), steps) if steps else "",
        _markdown_table(("phase", "wall-clock seconds"), [(k, _number(v)) for k, v in seconds.items()]),
    ]
    return "\n\n".join(table for table in tables if table)


def _samples_table(samples: Sequence[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    header = list(samples[0])
    return _markdown_table(header, [[sample.get(key, "") for key in header] for sample in samples])


def _yaml_block(settings: dict[str, Any]) -> str:
    text = yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True) if settings else "{}\n"
    return f"```yaml\n{text}```"


def _markdown_table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """Text that stays inside its cell and shows what it says: no pipe, line break, tag, code or emphasis of its
    own."""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    for mark in "|`*":
        text = text.replace(mark, f"\\{mark}")
    return "<br>".join(text.strip().splitlines())


def _number(value: Any, digits: int = 4) -> str:
    if not _is_number(value):
        return ABSENT
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def _plain(value: Any) -> Any:
    """As JSON and YAML know it: plain containers; a number that is not finite becomes null, other objects their
    text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


# ---- the terminal ---------------------------------------------------------------------------------------------------


def metrics_table(log_history: Log) -> Table:
    """The last logged value of every metric, grouped, for the terminal."""
    last = {
        key: (value, row) for row in _training_rows(log_history) for key, value in row.items() if _is_number(value)
    }
    table = Table(title="last logged values")
    for column in ("group", "metric", "value", "step"):
        table.add_column(column, justify="right" if column in ("value", "step") else "left")
    grouped: dict[str, list[str]] = {group: [] for group in GROUPS}
    for key in last:
        group = next((group for group, starts in GROUPS.items() if key.startswith(starts)), None)
        if group:
            grouped[group].append(key)
    for group, keys in grouped.items():
        for index, key in enumerate(keys):
            value, row = last[key]
            table.add_row("" if index else group, key, _number(value), _number(row.get("step")))
        table.add_section()
    return table
