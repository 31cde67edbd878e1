"""The words and options of one command."""

import argparse
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from trainers.commands import help as helping
from trainers.commands.checks import make_folder
from trainers.commands.layout import show
from trainers.commands.program import program
from trainers.settings.options import ConfigError
from trainers.settings.parser import Request, read

Words = list[str]
CONFIG = (
    "A YAML or JSON file with the settings of the run, or the name of a config of the package "
    "(`trajectory-nelbo configs` lists them)."
)


@dataclass(frozen=True)
class Word:
    """What stands on a command line without an option: its name in usage lines, meaning, type, and whether it may be
    left out."""

    name: str
    help: str
    type: Callable[[str], Any] = str
    optional: bool = False

    def __str__(self) -> str:
        return f"[{self.name}]" if self.optional else self.name


class OptionParser(argparse.ArgumentParser):
    """For what belongs to one command and to no config; bad input is a ConfigError.

    Args:
        doc: the command's docstring: help begins with its first line, and ends with the rest.
        mode: the command's first word, where it has several modes.
        settings: whether the settings of a config may follow.
    """

    def __init__(self, doc: str | None, mode: str = "", settings: bool = False):
        super().__init__(" ".join(filter(None, (program(), mode))), add_help=False, allow_abbrev=False)
        self.description = doc
        self.words: list[Word] = []
        self.settings = settings

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as a ConfigError, where argparse would print the usage and exit."""
        raise ConfigError(message)

    def add_word(self, name: str, help: str, type: Callable[[str], Any] = str, optional: bool = False) -> None:
        """Declare the next word that is no option; those that may be left out come last."""
        self.words.append(Word(name, help, type, optional))

    def add_config(self, optional: bool = False) -> None:
        """Declare that the next word is a config, whose settings may follow."""
        self.settings = True
        self.add_word("CONFIG", CONFIG, optional=optional)

    def add_json(self, what: str) -> None:
        """Declare --json FILE, which also gets the numbers; `parse` makes its folder."""
        self.add_argument("--json", type=Path, default=None, metavar="FILE", help=f"Also write {what} to this file.")

    def add_split(self) -> None:
        """Declare --split, of commands that measure."""
        splits = ("train", "validation", "test")
        self.add_argument("--split", default="test", choices=splits, help="Which problems of the task.")

    def parse(self, argv: Words) -> tuple[argparse.Namespace, Words]:
        """What a command line says; options and words in any order, settings of the config last.

        Args:
            argv: the command line without the program.

        Returns:
            Words, by their names in small letters, and options; and the settings that are the config's.

        Raises:
            ConfigError: in one line.
            SystemExit: after printing the help.
        """
        if helping.is_wanted(argv):
            show(helping.answer(self.described(), argv))
            raise SystemExit(0)
        found, rest = self.parse_known_args(argv)
        leading = list(takewhile(lambda text: not text.startswith("-"), rest))
        settings = rest[len(leading) :]
        if settings and not self.settings:
            raise ConfigError(f"unknown option {settings[0]}: {self._advice(settings[0])}")
        self._assign(found, leading)
        json = getattr(found, "json", None)
        if json is not None:
            make_folder("--json", json, json.parent)
        return found, settings

    def read(self, config: str, settings: Words) -> Request:
        """`trainers.settings.parser.read`, which is told of the command's own options too."""
        return read([config, *settings], beside=self.names())

    def names(self) -> Words:
        """The command's own options, without dashes."""
        return [name.removeprefix("--") for action in self._actions for name in action.option_strings]

    def described(self) -> helping.Command:
        """What help says of it."""
        arguments = [(word.name, word.help) for word in self.words]
        usage, (summary, _, notes) = self.usage_words(), (self.description or "").partition("\n")
        return helping.Command(self.prog, usage, summary, notes, arguments, self._actions, self.settings)

    def usage_words(self) -> Words:
        """What a usage line says behind the program: words, what must be given, and what may follow."""
        required = [helping.option_name(action) for action in self._actions if action.required]
        optional = ["[options]"] if any(not action.required for action in self._actions) else []
        return [*map(str, self.words), *required, *optional, *(["[--SECTION.KEY VALUE ...]"] if self.settings else [])]

    def _assign(self, found: argparse.Namespace, leading: Words) -> None:
        least = sum(not word.optional for word in self.words)
        if not least <= len(leading) <= len(self.words):
            expected = " ".join(map(str, self.words)) or "options alone"
            call = " ".join([self.prog, *self.usage_words()])
            raise ConfigError(f"expected {expected}, got {' '.join(leading) or 'nothing'}; usage: {call}")
        for index, word in enumerate(self.words):
            setattr(found, word.name.lower(), word.type(leading[index]) if index < len(leading) else None)

    def _advice(self, text: str) -> str:
        close = difflib.get_close_matches(text.removeprefix("--").partition("=")[0], self.names(), n=1)
        return f"did you mean --{close[0]}?" if close else f"see {self.prog} --help"
