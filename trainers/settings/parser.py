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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.settings.declarations import Declared, declared
from trainers.settings.files import load_yaml
from trainers.settings.options import SECTIONS, ConfigError, dotted
from trainers.settings.values import admits, argument, expected, json_object

# trainer -> where its dataclass is; those of the model and of the task are the same for all
TRAINERS = {
    "grpo": ("trainers.settings.grpo", "ImprovedDiffuGRPOConfig"),
    "sft": ("trainers.settings.sft", "DiffusionSFTConfig"),
    "dpo": ("trainers.settings.dpo", "DiffusionDPOConfig"),
}
COMMON = (("trainers.settings.model", "ModelArguments"), ("trainers.settings.task", "TaskArguments"))

# One flag that fills a field of two dataclasses: ours when the model is loaded, TRL's when TRL loads something itself.
SHARED = {"trust_remote_code"}

HELP = {"-h", "--help"}
SUFFIXES = (".yaml", ".yml", ".json")
USAGE = "%(prog)s CONFIG.yaml [--trainer grpo|sft|dpo] [--section.key VALUE | --flat_name VALUE ...]"


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


def read(argv: list[str] | None = None, check_known: bool = True) -> Request:
    """Read a config file and its overrides.

    Args:
        argv: `[config path, --option, value, ...]`; None takes the command line.
        check_known: refuse names that no source of core lists; the dataclasses check them too, and know of entries
            that were added to a dict by code since.

    Raises:
        ConfigError: a file that cannot be read, or a setting that does not fit, in one line.
        SystemExit: after printing the help for `--help`.
    """
    words = sys.argv[1:] if argv is None else argv
    if wants_help(words):
        print_settings(words)
        raise SystemExit(0)
    paths, overrides = _split(words)
    if len(paths) != 1:
        raise ConfigError(f"expected one config file first, got {paths}; call: train.py configs/x.yaml [--key value]")
    document = load_yaml(Path(paths[0]))
    trainer = _trainer([*document.items(), *overrides])
    parser = SectionParser(trainer)
    values = {**parser.collect(_flatten(document, parser)), **parser.collect(overrides)}
    given = {name: value for name, value in values.items() if value is not None}
    if check_known:
        parser.check_known(given)
    return Request(trainer, given, Path(paths[0]))


def wants_help(words: list[str]) -> bool:
    """Whether a command line asks for help rather than for work."""
    return not HELP.isdisjoint(words)


def print_settings(words: list[str], usage: str | None = USAGE) -> None:
    """Print every setting, by section, of the trainer that a command line or its config file names.

    Args:
        words: the command line.
        usage: the line above; None: there is one already.
    """
    paths, overrides = _split([word for word in words if word not in HELP])
    document = load_yaml(Path(paths[0])) if paths and paths[0].endswith(SUFFIXES) else {}
    parser = SectionParser(_trainer([*document.items(), *overrides]))
    parser.usage = argparse.SUPPRESS if usage is None else usage
    parser.print_help()


class SectionHelp(argparse.ArgumentDefaultsHelpFormatter):
    """Shows an option as `--section.key VALUE [--flat_name]`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flat, name = action.option_strings[0], action.option_strings[-1]
        return f"{name} {self._format_args(action, 'VALUE')}  [{flat}]"


class SectionParser(argparse.ArgumentParser):
    """Knows every option of one trainer, its spellings, and how its text becomes a value."""

    def __init__(self, trainer: str):
        super().__init__(add_help=False, allow_abbrev=False, formatter_class=SectionHelp)
        self.trainer = trainer
        self.options: dict[str, Declared] = {}  # by field name
        self.names: dict[str, str] = {}  # spelling -> field name
        self.dotted: dict[str, str] = {}  # field name -> section.key
        groups = {section: self.add_argument_group(section, text) for section, text in SECTIONS.items()}
        for place in (*COMMON, TRAINERS[trainer]):
            for option in declared(*place).values():
                if not (option.name in SHARED and option.name in self.dotted):
                    self._add(option, groups)

    def _add(self, option: Declared, groups: dict[str, Any]) -> None:
        name = dotted(option)
        section = name.partition(".")[0]
        self.options[option.name], self.dotted[option.name] = option, name
        self.names |= dict.fromkeys((option.name, name, f"{section}.{option.name}"), option.name)
        if "alias" in option.metadata:
            self.names[f"{section}.{option.metadata['alias']}"] = option.name
        known = f" One of: {', '.join(option.known)}." if option.known else ""
        text = (option.metadata.get("help", "") + known).replace("%%", "%").replace("%", "%%")
        groups[section].add_argument(f"--{option.name}", f"--{name}", help=text, **argument(option))

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
        close = difflib.get_close_matches(spelling, self.names, n=1)
        return f"did you mean {self.dotted[self.names[close[0]]]!r}? ({known})" if close else known

    def _convert(self, name: str, raw: Any) -> Any:
        """The value of a field, from what YAML read or the texts after an option; None keeps the default."""
        action, option = self._option_string_actions[f"--{name}"], self.options[name]
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
