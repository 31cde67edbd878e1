"""The picture of a run, curves.png: one for GRPO, one for SFT, one for DPO.

A metric that was not logged is said to be missing in its panel.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from trainers.evaluating.statistics import Z95
from trainers.reporting.figures import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    REWARD_COLOURS,
    SKY,
    draw_line,
    label_axes,
    new_figure,
    remark,
    save_figure,
)
from trainers.reporting.history import Log, has, is_number, nelbo_error, reward_means, series, training_rows
from trainers.rewarding.log import STRICT
from trainers.tasks.verdicts import is_reward, only_rewards

# when it was measured -> colour, place beside its tick, side of its label
WHEN = {"before": (RED, -0.13, "right"), "after": (BLUE, 0.13, "left")}

# of evaluations during training, dotted: key -> label, colour
VALIDATED = (("eval_reward", "reward, validation", SKY), ("eval_" + STRICT, "strict accuracy, validation", RED))


def draw_curves(log_history: Log, path: str | Path, held_out: Mapping[str, Any] | None) -> None:
    """Draw the picture that fits what was logged; arguments as in `curves_png`."""
    rows = training_rows(log_history)
    if has(rows, "rewards/margins"):
        preference_curves_png(log_history, path)
    elif rows and not has(rows, "reward"):  # a run that logged steps but no reward is supervised
        sft_curves_png(log_history, path)
    else:
        curves_png(log_history, path, held_out)


def curves_png(log_history: Log, path: str | Path, held_out: Mapping[str, Any] | None) -> None:
    """Draw a GRPO run in four panels: rewards, bound, KL (or spread of ratios), held-out accuracy; 1200 x 900 pixels.

    Args:
        log_history: `trainer.state.log_history`.
        path: the PNG to write.
        held_out: "before" and "after" (either may be missing) -> name ("sampled strict", ...) -> {"value", "low",
            "high"}.
    """
    rows = training_rows(log_history)
    figure = new_figure(12, 9)
    (reward, bound), (ratio, accuracy) = figure.subplots(2, 2)
    _draw_rewards(reward, rows, log_history)
    _draw_bound(bound, rows)
    _draw_ratio(ratio, rows)
    _draw_held_out(accuracy, held_out or {})
    save_figure(figure, path)


def sft_curves_png(log_history: Log, path: str | Path) -> None:
    """Draw an SFT run in two panels: loss in training and validation, and the bound; 1200 x 500 pixels."""
    rows = training_rows(log_history)
    figure = new_figure(12, 5)
    loss, bound = figure.subplots(1, 2)
    label_axes(loss, "Loss", "nats per canvas token")
    draw_line(loss, rows, "loss", BLUE, label="training")
    if has(log_history, "eval_loss"):
        draw_line(loss, log_history, "eval_loss", RED, label="validation")
    if loss.has_data():
        loss.legend()
    if has(rows, "cross_entropy"):
        _draw_cross_entropy(bound, rows)
    else:
        _draw_bound(bound, rows)
    save_figure(figure, path)


def preference_curves_png(log_history: Log, path: str | Path) -> None:
    """Draw a DPO run in two panels: loss, and the margin by which it ranks the pairs; 1200 x 500 pixels."""
    rows = training_rows(log_history)
    figure = new_figure(12, 5)
    loss, margin = figure.subplots(1, 2)
    label_axes(loss, "Loss", "mean of the pairs' losses")
    label_axes(margin, "Implicit reward", "beta x log ratio to the reference (nats per text)")
    draw_line(loss, rows, "loss", BLUE, label="training")
    lines = {"margins": BLUE, "chosen": GREEN, "rejected": ORANGE}
    for name, colour in lines.items():
        draw_line(margin, rows, f"rewards/{name}", colour, label=name.replace("margins", "margin"))
    for axes, key in ((loss, "eval_loss"), (margin, "eval_rewards/margins")):
        if has(log_history, key):
            draw_line(axes, log_history, key, RED, label="validation")
        axes.legend()
    save_figure(figure, path)


def _draw_rewards(axes: Axes, rows: Log, log_history: Log) -> None:
    label_axes(axes, "Reward", "mean reward per completion")
    for index, (key, name) in enumerate(reward_means(rows).items()):
        draw_line(axes, rows, key, REWARD_COLOURS[index % len(REWARD_COLOURS)], label=name, width=1.2)
    draw_line(axes, rows, "reward", BLUE, label="reward (total)", width=2.4)
    for key, name, colour in VALIDATED:
        if has(log_history, key):
            draw_line(axes, log_history, key, colour, label=name, width=1.6, style=":")
    if has(rows, STRICT):  # dashed: where correctness is rewarded the two lines are one
        draw_line(axes, rows, STRICT, "black", label="strict accuracy", width=1.6, style="--")
    axes.margins(y=0.1)
    # beneath the panel: reward curves fill it from floor to ceiling, so no corner is safe
    if axes.has_data():
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)


def _draw_bound(axes: Axes, rows: Log) -> None:
    label_axes(axes, "Bound on -log p(completion)", "NELBO (nats per completion)")
    rolled_out = "scheduled_sampling/nelbo_rolled_out"
    if has(rows, "nelbo") or not has(rows, rolled_out):
        draw_line(axes, rows, "nelbo", BLUE, label="NELBO")
    both = [row for row in rows if nelbo_error(row) is not None]
    if both:
        steps, bound = series(both, "nelbo")
        band = Z95 * series(both, "nelbo_standard_error")[1]
        label = f"± {Z95} Monte-Carlo standard errors"
        axes.fill_between(steps, bound - band, bound + band, color=BLUE, alpha=0.2, linewidth=0, label=label)
    if has(rows, rolled_out):
        draw_line(axes, rows, rolled_out, RED, label="the same at rolled-out states (no bound)", width=1.2)
    if both or has(rows, rolled_out):
        axes.legend()


def _draw_ratio(axes: Axes, rows: Log) -> None:
    """KL to the reference policy; with beta = 0 there is none, and the spread of ratios says how far it went."""
    if has(rows, "kl") or not has(rows, "ratio_log_std"):
        label_axes(axes, "KL to the reference policy", "KL (nats per token)")
        draw_line(axes, rows, "kl", BLUE)
    else:
        label_axes(axes, "Spread of the policy ratio (no KL logged: beta = 0)", "log ratio, r.m.s. (nats per token)")
        draw_line(axes, rows, "ratio_log_std", BLUE)


def _draw_cross_entropy(axes: Axes, rows: Log) -> None:
    label_axes(axes, "Flow matching", "cross-entropy (nats per token)")
    draw_line(axes, rows, "cross_entropy", BLUE, label="on the path")
    rolled_out = "scheduled_sampling/cross_entropy_rolled_out"
    if has(rows, rolled_out):
        draw_line(axes, rows, rolled_out, RED, label="at rolled-out states", width=1.2)
    axes.legend()


def _draw_held_out(axes: Axes, held_out: Mapping[str, Any]) -> None:
    """Points with 95% intervals, before beside after; an end that is not finite is not drawn.

    Of accuracies and rewards, whose scales differ, the accuracies.
    """
    measured = {when: held_out[when] for when in WHEN if held_out.get(when)}
    names = list(dict.fromkeys(name for entries in measured.values() for name in entries))
    rewards = only_rewards(names)
    names = [name for name in names if is_reward(name) == rewards]
    what = ("Held-out reward", "mean reward") if rewards else ("Held-out accuracy", "problems solved (%)")
    label_axes(axes, f"{what[0]}, 95% intervals", what[1], x="")
    for when, entries in measured.items():
        shown = {name: entries[name] for name in names if name in entries}
        _draw_interval_points(axes, names, when, shown, scale=1 if rewards else 100)
    if not measured:
        return remark(axes, "accuracy was not measured")
    axes.set_xticks(range(len(names)), [name.replace("_", " ").replace(" ", "\n", 1) for name in names])
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.margins(y=0.12)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def _draw_interval_points(axes: Axes, names: list[str], when: str, entries: Mapping[str, Any], scale: float) -> None:
    """What was measured at one time, in the unit of 1 / scale; the first one carries the label of the legend."""
    colour, shift, side = WHEN[when]
    for name, entry in entries.items():
        x, value = names.index(name) + shift, scale * entry["value"]
        ends = [abs(scale * entry[end] - value) if is_number(entry[end]) else 0.0 for end in ("low", "high")]
        label = when if name == next(iter(entries)) else None
        axes.errorbar(x, value, [[ends[0]], [ends[1]]], fmt="o", color=colour, capsize=4, linewidth=2, label=label)
        written = f"{value:.3g}" if scale == 1 else f"{value:.1f}"
        axes.annotate(
            written, (x, value), (-7 if side == "right" else 7, 0), textcoords="offset points", ha=side,
            va="center", color=colour,
        )  # fmt: skip
