"""Every alpha schedule drawn: visible share, mask probability and NELBO weights on the closed grid."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from trainers.reporting.figures import BLUE, GREEN, PURPLE, RED, label_axes, new_figure

LOOKS = ((BLUE, "-"), (RED, "--"), (GREEN, "-."), (PURPLE, ":"))  # colours, and dashes for print


def print_check_values(schedules: list[AlphaSchedule]) -> None:
    """alpha, mask probability and NELBO weight of each schedule at eighths and quarters of T."""
    steps = schedules[0].max_timesteps
    print(" " * 6 + "".join(f"  {schedule.name:^24}" for schedule in schedules))
    print(f"{'t':>6}" + "".join(f"  {'alpha':>8}{'mask':>8}{'weight':>8}" for _ in schedules))
    for t in sorted({steps * eighths // 8 for eighths in (0, 1, 2, 4, 6, 8)}):
        numbers = [(s.alpha(t).item(), s.mask_prob(t).item(), s.nelbo_weight(t).item()) for s in schedules]
        print(f"{t:>6}" + "".join("  " + "".join(f"{number:8.4f}" for number in triple) for triple in numbers))


def draw(schedules: list[AlphaSchedule]) -> Figure:
    """Four panels over t = -1..T+1; a transition t leaves level t, so none leaves the clean level -1."""
    figure = new_figure(12, 9)
    (alpha, mask), (weight, inverse) = figure.subplots(2, 2)
    for axes in (weight, inverse):
        axes.set_yscale("log")
    first = schedules[0]
    figure.suptitle(f"T = {first.max_timesteps}, alpha {first.alpha_min} .. {first.alpha_max}")
    for schedule, look in zip(schedules, LOOKS * len(schedules), strict=False):
        t = torch.tensor(schedule.timesteps)
        plot(alpha, schedule, t, schedule.alpha(t), look)
        plot(mask, schedule, t, schedule.mask_prob(t), look)
        plot(weight, schedule, t, schedule.nelbo_weight(t), look)
        plot(inverse, schedule, t, 1 / schedule.mask_prob(t), look)
    finish(alpha, first, "Visible share", "alpha_t")
    finish(mask, first, "Mask probability", "1 - alpha_t")
    finish(weight, first, "NELBO weight of transition t", "reveal probability, per masked token (log)")
    finish(inverse, first, "NELBO weight, transitions drawn by width", "1 / (1 - alpha_t), per masked token (log)")
    return figure


def plot(axes: Axes, schedule: AlphaSchedule, t: Tensor, values: Tensor, look: tuple[str, str]) -> None:
    """One line, with the two closing levels as hollow markers; values that an axis cannot show are left out."""
    colour, dashes = look
    values = values.where(values.isfinite() & ((values > 0) | (axes.get_yscale() == "linear")), torch.nan)
    axes.plot(t.numpy(), values.numpy(), dashes, color=colour, linewidth=2, label=schedule.name)
    axes.plot(t[[0, -1]].numpy(), values[[0, -1]].numpy(), "o", color=colour, fillstyle="none", clip_on=False)


def finish(axes: Axes, schedule: AlphaSchedule, title: str, quantity: str) -> None:
    """Labels, and dotted lines at the closing levels."""
    label_axes(axes, title, quantity, "timestep t (hollow markers: closing levels t = -1 and t = T + 1)")
    for level in (schedule.timesteps[0], schedule.timesteps[-1]):
        axes.axvline(level, color="0.5", linestyle=":", linewidth=1)
    axes.legend()
