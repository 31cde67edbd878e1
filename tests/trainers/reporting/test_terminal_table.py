"""The terminal shows the last value of each metric, in its group."""

import io
import re

from reports import ROLLED_OUT, grpo_log, sft_log
from rich.console import Console
from rich.table import Table

from trainers.reporting.terminal_table import metrics_table, print_table


def test_the_terminal_groups_scheduled_sampling_and_puts_cross_entropy_to_the_bound():
    table = metrics_table(sft_log(**ROLLED_OUT, cross_entropy=2.125))
    groups, metrics = (list(table.columns[i].cells) for i in range(2))
    assert metrics[groups.index("bound") :][:2] == ["nelbo", "cross_entropy"]
    assert metrics[groups.index("scheduled sampling") :][: len(ROLLED_OUT)] == list(ROLLED_OUT)


def test_the_terminal_shows_the_last_value_of_each_metric_once():
    out = io.StringIO()
    Console(file=out, width=120).print(metrics_table([*grpo_log(), {"step": 210, "reward": 0.9375}]))
    lines = [re.split(r"\s*│\s*", line.strip("│ \n")) for line in out.getvalue().splitlines() if "│" in line]
    shown = {line[-3]: (line[-2], line[-1]) for line in lines}
    assert shown["reward"] == ("0.9375", "210")
    assert shown["nelbo"] == ("20", "200")
    assert shown["loss/tokens_per_second"] == ("911", "200")
    assert "eval_reward" not in shown and "train_loss" not in shown
    assert [line[0] for line in lines if len(line) == 4] == [
        "reward",
        "bound",
        "ratio",
        "rollout",
        "time",
        "optimiser",
    ]


def wide_table() -> Table:
    table = Table(title="a model on 16 problems")
    for heading in ("steps", "decoding", "strict, 95% Wilson interval", "lenient, 95% Wilson interval", "forwards"):
        table.add_column(heading)
    table.add_row("7", "sampled", "56.2% [38.9, 72.2]", "59.4% [41.0, 75.5]\n81.2% [57.0, 93.4]", "7.00")
    return table


def printed(table: Table, width: int) -> list[str]:
    out = io.StringIO()
    print_table(Console(file=out, width=width), table, keys=2)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_table_that_is_too_wide_becomes_a_block_a_row():
    assert printed(wide_table(), 80) == [
        "a model on 16 problems",
        "steps 7, decoding sampled",
        "  strict, 95% Wilson interval   56.2% [38.9, 72.2]",
        "  lenient, 95% Wilson interval  59.4% [41.0, 75.5] / 81.2% [57.0, 93.4]",
        "  forwards                      7.00",
    ]
    assert any("│ 7" in line and "7.00" in line for line in printed(wide_table(), 120))
