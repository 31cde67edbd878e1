"""From a YAML (or JSON) file and a command line to the value of every setting that was given.

    scripts/train.py configs/x.yaml --loss.alpha_schedule linear --learning_rate 2e-6

A setting has three spellings, in the file and on the command line alike: `section.key` (nested in the file),
`section.field` and the flat field name, which for TRL's options is TRL's own. Dashes and underscores are the same. The
command line overrides the file. `null` leaves a setting at its default. A setting given twice with two values is an
error, and so is a name that nobody declared.

Nothing that is imported here takes long: what is wrong is said before torch, transformers and TRL are there.
`trainers.settings.config` makes dataclasses of what is read here.
"""

import argparse
import difflib
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.settings.declarations import Declared, declared, names_in
from trainers.settings.files import load_yaml
from trainers.settings.options import SECTIONS, ConfigError, dotted
from trainers.settings.shipped import find_config, find_or_none
from trainers.settings.values import admits, argument, expected, json_object

# trainer -> where its dataclass is; those of the model and of the task are the same for all
TRAINERS = {
    "grpo": ("trainers.settings.grpo", "ImprovedDiffuGRPOConfig"),
    "sft": ("trainers.settings.sft", "DiffusionSFTConfig"),
    "dpo": ("trainers.settings.dpo", "DiffusionDPOConfig"),
}
# trainer -> the dict of TRL's options that it refuses
REFUSED = {
    "grpo": ("trainers.settings.unsupported", "UNSUPPORTED"),
    "sft": ("trainers.settings.unsupported", "UNSUPPORTED_SFT"),
    "dpo": ("trainers.settings.dpo", "UNSUPPORTED_DPO"),
}
COMMON = (("trainers.settings.model", "ModelArguments"), ("trainers.settings.task", "TaskArguments"))

# One flag that fills a field of two dataclasses: ours when the model is loaded, TRL's when TRL loads something itself.
SHARED = {"trust_remote_code"}


@dataclass(frozen=True)
class Request:
    """What a file and a command line ask for; every name is known, and every text was read by its type.

    Attributes:
        trainer: a key of `TRAINERS`.
        values: field name -> value, of the settings that were given.
        path: the file.
    """

    trainer: str
    values: dict[str, Any]
    path: Path


def read(argv: list[str] | None = None, check_known: bool = True, beside: Collection[str] = ()) -> Request:
    """Read a config file and its overrides.

    Args:
        argv: `[config, --option, value, ...]`, where the config is a path or the name of one of the package's; None
            takes the command line.
        check_known: refuse names that no source of core lists; the dataclasses check them too, and know of entries
            that were added to a dict by code since.
        beside: options that the command itself has, for advice about a name that is unknown.

    Raises:
        ConfigError: a file that cannot be read, or a setting that does not fit, in one line.
    """
    paths, overrides = _split(sys.argv[1:] if argv is None else argv)
    if len(paths) != 1:
        raise ConfigError(f"expected one config file first, got {paths}; call: train.py configs/x.yaml [--key value]")
    path = find_config(paths[0])
    document = load_yaml(path)
    trainer = _trainer([*document.items(), *overrides])
    parser = SectionParser(trainer, beside)
    values = {**parser.collect(_flatten(document, parser)), **parser.collect(overrides)}
    given = {name: value for name, value in values.items() if value is not None}
    if check_known:
        parser.check_known(given)
    return Request(trainer, given, path)


def parser_for(words: list[str]) -> "SectionParser":
    """The options of the trainer that a command line names, or a config in it.

    Raises:
        ConfigError: a config that cannot be read, or a trainer that there is not.
    """
    leading, overrides = _split(words)
    paths = [path for word in leading if (path := find_or_none(word)) is not None]
    document = load_yaml(paths[-1]) if paths else {}
    return SectionParser(_trainer([*document.items(), *overrides]))


class SectionParser(argparse.ArgumentParser):
    """Knows every option of one trainer, its spellings, and how its text becomes a value.

    Args:
        trainer: a key of `TRAINERS`.
        beside: options that are not among them, which an unknown name may have meant.
    """

    def __init__(self, trainer: str, beside: Collection[str] = ()):
        super().__init__(add_help=False, allow_abbrev=False)
        self.trainer, self.beside = trainer, beside
        self.refused = names_in(*REFUSED[trainer])
        self.options: dict[str, Declared] = {}  # by field name
        self.names: dict[str, str] = {}  # spelling -> field name
        self.dotted: dict[str, str] = {}  # field name -> section.key
        for place in (*COMMON, TRAINERS[trainer]):
            for option in declared(*place).values():
                if not (option.name in SHARED and option.name in self.dotted):
                    self._add(option)

    def _add(self, option: Declared) -> None:
        name = dotted(option)
        section = name.partition(".")[0]
        self.options[option.name], self.dotted[option.name] = option, name
        self.names |= dict.fromkeys((option.name, name, f"{section}.{option.name}"), option.name)
        if "alias" in option.metadata:
            self.names[f"{section}.{option.metadata['alias']}"] = option.name
        self.add_argument(f"--{option.name}", f"--{name}", **argument(option))

    def action(self, name: str) -> argparse.Action:
        """How argparse reads the text of a field."""
        return self._option_string_actions[f"--{name}"]

    def error(self, message: str):
        """Raise what is wrong as a ConfigError, where argparse would print the usage and exit."""
        raise ConfigError(message)

    def collect(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Field name -> value for one source of settings, in which no two may disagree."""
        values: dict[str, Any] = {}
        spellings: dict[str, str] = {}
        for spelling, raw in pairs:
            if spelling == "trainer":
                continue
            spelling, raw = self._positive(spelling, raw)
            name = self._resolve(spelling)
            value = self._convert(name, raw)
            if name in values and values[name] != value:
                both = f"{spellings[name]}={values[name]!r} and {spelling}={value!r}"
                raise ConfigError(f"{self.dotted[name]} is set twice, and differently: {both}; keep one")
            values[name], spellings[name] = value, spelling
        return values

    def _positive(self, spelling: str, raw: Any) -> tuple[str, Any]:
        # transformers' `--no_flag`, offered for booleans that default to true
        flag = spelling.replace("-", "_")
        if raw == () and flag.startswith("no_"):
            option = self.options.get(flag.removeprefix("no_"))
            if option is not None and option.default is True:
                return option.name, "false"
        return spelling, raw

    def _resolve(self, spelling: str) -> str:
        spelling = spelling.replace("-", "_")
        if spelling in self.names:
            return self.names[spelling]
        raise ConfigError(f"unknown setting {spelling!r}: {self._advice(spelling)}")

    def _advice(self, spelling: str) -> str:
        section, _, key = spelling.rpartition(".")
        longer = [name for name in self.names if section and name.startswith(spelling)]
        if longer:
            return f"did you mean {self.dotted[self.names[longer[0]]]!r}?"
        keys = {name.partition(".")[2]: field for field, name in self.dotted.items()}
        home = self.names.get(key) or keys.get(key)
        if section in SECTIONS and home:
            name = self.dotted[home]
            if name.startswith("loss.alpha_"):
                return f"the schedule is set once, in loss: write {name}"
            return f"it belongs to section {name.partition('.')[0]}: write {name}"
        if not section and key in keys:
            return f"did you mean {self.dotted[keys[key]]!r}?"
        known = {t: declared(*place).values() for t, place in TRAINERS.items() if t != self.trainer}
        others = [t for t, options in known.items() for o in options if {key, spelling} & {o.name, dotted(o)}]
        if others and section in (*SECTIONS, ""):
            return f"only trainer {others[0]} has it, and this is trainer {self.trainer}"
        known = f"sections are {', '.join(SECTIONS)}" if section and section not in SECTIONS else "see --help"
        close = difflib.get_close_matches(spelling, [*self.beside, *self.names], n=1)
        if close and close[0] in self.beside:
            return f"did you mean --{close[0]}, an option of the command?"
        return f"did you mean {self.dotted[self.names[close[0]]]!r}? ({known})" if close else known

    def _convert(self, name: str, raw: Any) -> Any:
        """The value of a field, from what YAML read or the texts after an option; None keeps the default."""
        action, option = self.action(name), self.options[name]
        if raw is None or raw == "null":
            return None
        if isinstance(raw, str) and admits(option, dict):
            raw = json_object(raw)
        plural = action.nargs == "+"
        if isinstance(raw, dict | list) and not plural and admits(option, type(raw)):
            return raw
        readable = not isinstance(raw, dict) and (plural or not isinstance(raw, list))
        value = self._read(action, raw) if readable else None
        if value is None:
            shown = "no value" if raw == () else repr(raw)
            raise ConfigError(f"{self.dotted[name]}: expected {expected(action)}, got {shown}")
        return value

    def check_known(self, values: dict[str, Any]) -> None:
        """Raise ConfigError for a name that is in no dict of core, as their sources have them."""
        for name, value in values.items():
            known = self.options[name].known
            if known is not None and value not in known:
                raise ConfigError(f"{self.dotted[name]}={value!r}: expected one of {', '.join(known)}")

    def _read(self, action: argparse.Action, raw: Any) -> Any:
        """The value of one text or several; None: they are refused."""
        if raw == ():
            return action.const
        assert callable(action.type)  # `trainers.settings.values.argument` gives every option one
        texts = [_text(item, action) for item in (raw if isinstance(raw, list) else [raw])]
        try:
            values = [action.type(text) for text in texts]
        except (argparse.ArgumentTypeError, ValueError):
            return None
        if action.nargs == "+":
            return values or None
        return values[0] if len(values) == 1 else None


def _text(value: Any, action: argparse.Action) -> str:
    if isinstance(value, bool):
        # YAML reads `save_strategy: no` as false
        return "no" if not value and "no" in (action.choices or ()) else str(value).lower()
    return str(value)


def _split(argv: list[str]) -> tuple[list[str], list[tuple[str, Any]]]:
    """Command line -> what precedes the options, and (spelling, raw value) for each option."""
    leading: list[str] = []
    options: list[tuple[str, list[str]]] = []
    for token in argv:
        if token.startswith("--"):
            spelling, equals, text = token[2:].partition("=")
            options.append((spelling, [text] if equals else []))
        elif options:
            options[-1][1].append(token)
        else:
            leading.append(token)
    return leading, [(spelling, _unwrap(texts)) for spelling, texts in options]


def _unwrap(texts: list[str]) -> Any:
    """One text as itself, several as a list, none as (): a bare flag."""
    return texts[0] if len(texts) == 1 else texts or ()


def _trainer(pairs: list[tuple[str, Any]]) -> str:
    trainer = ([raw for spelling, raw in pairs if spelling == "trainer"] or ["grpo"])[-1]
    if not isinstance(trainer, str) or trainer not in TRAINERS:
        raise ConfigError(f"trainer={trainer!r}: expected one of {', '.join(TRAINERS)}")
    return trainer


def _flatten(document: dict[str, Any], parser: SectionParser) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in document.items():
        if key not in SECTIONS:
            if isinstance(value, dict) and key not in parser.names:
                close = difflib.get_close_matches(key, SECTIONS, n=1)
                guess = f"did you mean {close[0]!r}? " if close else ""
                raise ConfigError(f"unknown section {key!r}: {guess}(sections are {', '.join(SECTIONS)})")
            pairs.append((key, value))
        elif isinstance(value, dict):
            pairs.extend((f"{key}.{inner}", item) for inner, item in value.items())
        elif value is not None:
            raise ConfigError(f"section {key!r}: expected key: value pairs, got {value!r}")
    return pairs
