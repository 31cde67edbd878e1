"""Compare two checkpoints on the same problems.

Problem by problem: the gain with a paired interval, a 2x2 table, McNemar's test.

    python scripts/evaluate.py CONFIG --json before.json
    python scripts/evaluate.py CONFIG --model.name_or_path runs/.../model --json after.json
    python scripts/compare.py before.json after.json --json comparison.json

Both records must be of the same problems, by their hash. Rows of a sweep are compared with their like.
"""

from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from trainers.commands import OptionParser, main_or_one_line


def main(argv: list[str]) -> None:
    """Print the paired differences of two records of evaluate.py, row by row, and write them if asked to."""
    parser = OptionParser(__doc__)
    parser.add_word("BEFORE", "A record that evaluate --json wrote.", type=Path)
    parser.add_word("AFTER", "Another one, of the same problems.", type=Path)
    parser.add_json("the numbers")
    options, _ = parser.parse(argv)

    # only now: these take seconds to import, which a typo does not wait for
    from trainers.evaluating.comparison import compare, describe, notes
    from trainers.evaluating.record import read_record, write_record
    from trainers.reporting.terminal_table import print_table

    before, after = read_record(options.before), read_record(options.after)
    found, said = compare(before, after), notes(before, after)

    table = Table(title=f"{before['model']} -> {after['model']}, {before['problems']} problems", box=SIMPLE)
    counts = ("both", "only before", "only after", "neither")
    for heading in (*found[0].changes, "", "before", "after", "gain, points", *counts, "p"):
        table.add_column(heading)
    for paired in found:
        table.add_row(*paired.cells())
    console = Console()
    print_table(console, table, keys=len(found[0].changes) + 1)
    for note in said:
        console.print(note, soft_wrap=True)
    if options.json:
        write_record(options.json, describe(found, (str(options.before), str(options.after)), said))


if __name__ == "__main__":
    main_or_one_line(main)
