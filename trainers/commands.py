"""How every command of `scripts/` begins and ends: its own options, its config's, and one line for what went wrong.

Nothing here takes long to import. A command reads its command line first and imports torch, transformers and TRL
afterwards: a typo, a missing file and `--help` are answered at once.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from trainers.faults.endings import RunError, RunStopped
from trainers.settings.options import ConfigError
from trainers.settings.parser import print_settings, wants_help

Words = list[str]


class OptionParser(argparse.ArgumentParser):
    """For the few options that belong to one command and to no config; bad ones are a ConfigError.

    Args:
        doc: the command's docstring, of which help shows the first line.
    """

    def __init__(self, doc: str | None = None):
        super().__init__(add_help=False, allow_abbrev=False, description=(doc or "").split("\n")[0])
        self.add_argument("-h", "--help", action="help", help="show this and exit")

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as a ConfigError, where argparse would print the usage and exit."""
        raise ConfigError(message)

    def parse_beside_config(self, argv: Words) -> tuple[argparse.Namespace, Words]:
        """The command's own options; what is left is the config's. Help shows both."""
        if wants_help(argv):
            self.usage = f"{self.prog} CONFIG.yaml [options] [--section.key VALUE ...]"
            self.print_help()
            print_settings(argv, usage=None)
            raise SystemExit(0)
        return self.parse_known_args(argv)

    def parse_measurement(self, argv: Words) -> tuple[argparse.Namespace, Words]:
        """Adds what every command that measures has, --split and --json."""
        self.add_argument("--split", default="test", choices=("train", "validation", "test"))
        self.add_argument("--json", type=Path, default=None, help="also write the numbers to this file")
        options, rest = self.parse_beside_config(argv)
        if options.json:
            make_folder("--json", options.json, options.json.parent)
        return options, rest


def make_folder(option: str, path: Path, folder: Path) -> None:
    """Make the folder that a result is to go to, before the work: one that cannot be made fails now.

    Args:
        option: that asks for it.
        path: what it was given.
        folder: to be made.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error}") from error


def at_least(least: int, text: str) -> int:
    """A whole number of a command line."""
    if not (text.isdecimal() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def quiet_libraries() -> None:
    """No loading bars, and no deprecation notes that are addressed to TRL's authors; before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' too
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")


def main_or_one_line(main: Callable[[Words], None]) -> None:
    """Run a command's main. One line on stderr and no traceback: a configuration error, exit status 2; what ended a
    run before its time, status 1; a run that was asked to stop, status 75.

    Of several ranks the failing ones speak, each with its number; torchrun's last words are those of the first one to
    fail, a traceback included if that is what it was.
    """
    quiet_libraries()
    rank = int(os.environ.get("RANK", "0"))

    def say(kind: str, error: BaseException | str) -> None:
        print(
            f"{kind}{f' (rank {rank})' if rank else ''}: {' '.join(str(error).split())}", file=sys.stderr, flush=True
        )

    try:
        _recorded(main)(sys.argv[1:])
    except ConfigError as error:
        say("error", error)
        raise SystemExit(2) from None
    except RunError as error:
        if rank == 0 or not error.shared:
            say("error", error)
        raise SystemExit(1) from None
    except RunStopped as stopped:
        if rank == 0:
            say("stopped", stopped.message)
        raise


def _recorded(main: Callable[[Words], None]) -> Callable[[Words], None]:
    """Under torchrun, what fails is written where the launcher looks for it."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return main
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(main)
