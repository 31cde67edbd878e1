"""Tables in the terminal: the one that ends a run, the last value of every metric, and tables that may be too wide."""

from functools import partial

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from trainers.reporting.history import Log, is_number, training_rows
from trainers.reporting.markdown import number

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


def print_table(console: Console, table: Table, keys: int) -> None:
    """Print a table, or where it is wider than the terminal a block a row, so that no number is cut.

    Args:
        console: where to.
        table: of texts.
        keys: how many columns at its left name a row.
    """
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
        return console.print(table)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    if table.title:
        say(table.title, style="bold")
    headings = [str(column.header) for column in table.columns]
    widest = max(map(len, headings[keys:]))
    for row in zip(*(column.cells for column in table.columns), strict=True):
        named = zip(headings[:keys], row[:keys], strict=True)
        say(", ".join(f"{heading} {cell}".strip() for heading, cell in named), style="bold")
        for heading, cell in zip(headings[keys:], row[keys:], strict=True):
            say(f"  {heading:<{widest}}  {' / '.join(str(cell).splitlines())}")
    return None


def metrics_table(log_history: Log) -> Table:
    """The last logged value of every metric, grouped, for the terminal."""
    last = {key: (value, row) for row in training_rows(log_history) for key, value in row.items() if is_number(value)}
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
            table.add_row("" if index else group, key, number(value), number(row.get("step")))
        table.add_section()
    return table
