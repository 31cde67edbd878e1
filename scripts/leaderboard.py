"""Compare variants of a GRPO run at an equal budget.

    python scripts/leaderboard.py configs/leaderboards/gsm8k.yaml --seeds 0 1
    python scripts/leaderboard.py configs/leaderboards/gsm8k.yaml --table

The budgets are forward passes and time; every variant has several seeds.

Runs what is not finished and writes one JSON a run, then results.csv, results.json and leaderboard.png, all under the
board's `output_dir`. It can be stopped and started again, and started several times side by side: the processes share
the work. --table runs nothing and shows what is finished. See `trainers.studies.leaderboard` for what is measured.
"""

from rich.console import Console

from trainers.commands import OptionParser, main_or_one_line
from trainers.settings.files import load_yaml
from trainers.settings.options import ConfigError
from trainers.settings.shipped import find_config


def main(argv: list[str]) -> None:
    """Run the cells of a board that are not finished, then write and print what is."""
    own = OptionParser(__doc__)
    own.add_word("BOARD", "A YAML file, or a board of the package, such as leaderboards/gsm8k.", find_config)
    own.add_argument(
        "--only", nargs="+", default=None, metavar="NAME",
        help="Entries to run; 'start' is the untrained policy. Unset: all.",
    )  # fmt: skip
    own.add_argument("--seeds", nargs="+", type=int, default=None, help="Some of the board's seeds. Unset: all.")
    own.add_argument("--table", action="store_true", help="Run nothing; show what is finished.")
    options, _ = own.parse(argv)
    load_yaml(options.board)

    # only now: these take seconds to import, which a typo does not wait for
    from trainers.studies.leaderboard.board import nearest, read_leaderboard
    from trainers.studies.leaderboard.cells import finished
    from trainers.studies.leaderboard.report import notes, tables, write_results
    from trainers.studies.leaderboard.rows import rows
    from trainers.studies.leaderboard.running import run_board

    board = read_leaderboard(options.board)
    names, seeds = options.only or board.names, options.seeds or board.seeds
    for name in names:
        if name not in board.names:
            raise ConfigError(f"--only {name!r}: {nearest(name, board.names)}")
    for seed in seeds:
        if seed not in board.seeds:
            raise ConfigError(f"--seeds {seed}: the board has {', '.join(map(str, board.seeds))}")

    console = Console()
    if not options.table:
        run_board(board, names, seeds, lambda line: console.print(line, markup=False, soft_wrap=True))
    cells = finished(board)
    if not any(cells.values()):
        raise ConfigError(f"leaderboard {options.board}: nothing is finished in {board.output_dir}")
    found = rows(board, cells)
    write_results(board, cells, found)
    for table in tables(board, found):
        console.print(table)
        console.print()
    for note in notes(board, cells):
        console.print(note, style="dim", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main_or_one_line(main)
