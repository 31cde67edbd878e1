"""The curves of report.html: which metrics share a panel, with their units, and the log thinned out to what a screen
can show."""

from collections.abc import Iterable, Mapping
from typing import Any

from trainers.reporting.history import BOOKKEEPING, TIMED, Log, evenly, has, is_number, reward_means, training_rows
from trainers.reporting.page.budget import CURVES, Budget
from trainers.rewarding.log import STRICT

POINTS = 400  # rows of the log that are drawn, evenly spread

# title -> unit of the y-axis, and key in the log -> name of the line. A line that was not logged is left out.
PANELS: dict[str, tuple[str, dict[str, str]]] = {
    "Bound on -log p(completion)": (
        "nats per completion",
        {"nelbo": "NELBO", "scheduled_sampling/nelbo_rolled_out": "at rolled-out states (no bound)"},
    ),
    "Loss": ("nats", {"loss": "training", "eval_loss": "evaluation"}),
    "KL to the reference policy": ("nats per token", {"kl": "KL"}),
    "Completion length": (
        "tokens",
        {
            "completions/mean_length": "mean",
            "completions/max_length": "longest",
            "completions/min_length": "shortest",
        },
    ),
    "Entropy": ("nats per token", {"entropy": "entropy"}),
    "Groups without a signal": ("share of groups", {"frac_reward_zero_std": "all rewards equal"}),
    "Effective samples": ("share of the samples", {"diagnostics/ratio_ess": "importance weights"}),
    "Clipped tokens": (
        "share of tokens",
        {"clip_ratio/region_mean": "all", "clip_ratio/low_mean": "below", "clip_ratio/high_mean": "above"},
    ),
    "Policy ratio": ("log ratio, nats per token", {"ratio_log_std": "root mean square", "ratio_log_max": "largest"}),
    "Implicit reward": (
        "nats per text",
        {
            "rewards/margins": "margin",
            "rewards/chosen": "chosen",
            "rewards/rejected": "rejected",
            "eval_rewards/margins": "margin, evaluation",
        },
    ),
    "Pairs ranked right": (
        "share of pairs",
        {"rewards/accuracies": "training", "eval_rewards/accuracies": "evaluation"},
    ),
    "Flow matching": (
        "cross-entropy, nats per token",
        {"cross_entropy": "on the path", "scheduled_sampling/cross_entropy_rolled_out": "at rolled-out states"},
    ),
    "Gradient": ("norm", {"grad_norm": "before clipping"}),
    "Speed": (
        "tokens per second",
        {"rollout/tokens_per_second": "rollout", "loss/tokens_per_second": "scoring and backward"},
    ),
}
# the metric's Monte-Carlo standard error, drawn as a band of 1.96 of them
ERRORS = {"nelbo": "nelbo_standard_error"}
REST = "time/rest"  # of a step: what its timed parts leave


def curves(log_history: Log) -> dict[str, Any]:
    """Panels and the numbers that they show.

    Returns:
        panels: title, unit, lines (key and name), stacked; in the order of the page.
        metrics: key -> [steps, values] of every metric that was logged, the panels' first; within a budget of bytes.
        errors: key -> key of its standard error.
    """
    rows, evaluated = training_rows(log_history), [row for row in log_history if any(map(_is_eval, row))]
    rows = [_with_rest(row) for row in rows]
    panels = [panel for panel in _panels(rows, evaluated) if panel["lines"]]
    first = [line["key"] for panel in panels for line in panel["lines"]]
    keys = dict.fromkeys((*first, *ERRORS.values(), *_all_keys(rows), *filter(_is_eval, _all_keys(evaluated))))
    budget, metrics = Budget(CURVES), {}
    for key in keys:
        drawn = _points(evaluated if _is_eval(key) else rows, key)
        if drawn[0] and budget.takes([key, drawn]):
            metrics[key] = drawn
    return {"panels": panels, "metrics": metrics, "errors": ERRORS}


def _is_eval(key: str) -> bool:
    return key.startswith("eval_")


def _all_keys(rows: Log) -> Iterable[str]:
    return dict.fromkeys(key for row in rows for key in row if key not in BOOKKEEPING)


def _panels(rows: Log, evaluated: Log) -> list[dict[str, Any]]:
    rewarded = {"reward": "reward (total)", **(reward_means(rows) if has(rows, "reward") else {})}
    eval_means = {key: f"{name.removeprefix('eval_')}" for key, name in _eval_means(evaluated).items()}
    timed = {f"time/{part}": part.replace("_", " ") for part in TIMED} | {REST: "rest"}
    every = {
        "Reward": ("mean per completion", rewarded | {STRICT: "strict accuracy"}),
        "Evaluation during training": ("mean per completion", eval_means),
        **PANELS,
        "Time of a step": ("seconds per optimiser step", timed),
    }
    if has(rows, "reward"):  # the loss of GRPO is near 0 whatever happens
        del every["Loss"]
    return [
        {
            "title": title,
            "unit": unit,
            "stacked": REST in lines,
            "lines": [
                {"key": key, "name": name}
                for key, name in lines.items()
                if has(evaluated if _is_eval(key) else rows, key)
            ],
        }
        for title, (unit, lines) in every.items()
    ]


def _eval_means(evaluated: Log) -> dict[str, str]:
    """What an evaluation during training says of rewards: key in the log -> name."""
    means = {
        key: key.removeprefix("eval_rewards/").removesuffix("/mean")
        for key in _all_keys(evaluated)
        if key.startswith("eval_rewards/") and key.endswith("/mean")
    }
    return {"eval_reward": "reward (total)", **means, f"eval_{STRICT}": "strict accuracy"}


def _with_rest(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with what its timed parts leave of the step."""
    if not is_number(row.get("step_time")):
        return dict(row)
    timed = sum(row[key] for key in (f"time/{part}" for part in TIMED) if is_number(row.get(key)))
    return {**row, REST: max(0.0, row["step_time"] - timed)}


def _points(rows: Log, key: str) -> list[list[float]]:
    """Steps and values of a metric, at most `POINTS`, to 6 digits."""
    known = evenly([row for row in rows if is_number(row.get(key))], POINTS)
    steps = [row.get("step", index) for index, row in enumerate(known)]
    return [steps, [float(f"{row[key]:.6g}") for row in known]]
