"""From a YAML (or JSON) file and a command line to checked dataclasses.

    scripts/train.py configs/x.yaml --loss.alpha_schedule linear --learning_rate 2e-6

A setting has three spellings, in the file and on the command line alike: `section.key` (nested in the file),
`section.field` and the flat field name, which for TRL's options is TRL's own. Dashes and underscores are the same. The
command line overrides the file. `null` leaves a setting at its default. Text becomes a value by the argparse rules of
transformers' `HfArgumentParser`, for the file as for the command line, so a wrong type in the file is an error too. A
setting given twice with two values is an error.
"""

import argparse
import contextlib
import copy
import difflib
import json
import sys
from dataclasses import Field, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from trainers.settings.dpo import DiffusionDPOConfig
from trainers.settings.options import dotted
from trainers.settings.trainer import (
    SECTIONS,
    ConfigError,
    DiffusionSFTConfig,
    ImprovedDiffuGRPOConfig,
    ModelArguments,
    TaskArguments,
    check_block_causal,
)

TRAINERS: dict[str, type] = {"grpo": ImprovedDiffuGRPOConfig, "sft": DiffusionSFTConfig, "dpo": DiffusionDPOConfig}

# One flag that fills a field of two dataclasses: ours when the model is loaded, TRL's when TRL loads something itself.
SHARED = {"trust_remote_code"}

USAGE = "%(prog)s CONFIG.yaml [--trainer grpo|sft|dpo] [--section.key VALUE | --flat_name VALUE ...]"

EXPECTED = {int: "a whole number", float: "a number", str: "one value", string_to_bool: "true or false"}


@dataclass(frozen=True)
class ExperimentConfig:
    """What one run needs to know; `describe()` says what it was told."""

    trainer: str
    training: ImprovedDiffuGRPOConfig | DiffusionSFTConfig | DiffusionDPOConfig
    model: ModelArguments
    task: TaskArguments
    config_path: Path
    settings: dict[str, dict[str, Any]]

    def __post_init__(self):
        if self.model.attention == "block_causal":
            check_block_causal(self.training)

    def describe(self) -> dict[str, Any]:
        """Deviations from defaults, by section; JSON-serialisable, and itself a valid config file."""
        return {"trainer": self.trainer, **copy.deepcopy(self.settings)}


def parse(argv: list[str] | None = None) -> ExperimentConfig:
    """Read a config file and its overrides.

    Args:
        argv: `[config path, --option, value, ...]`; None takes the command line.

    Returns:
        The checked experiment.

    Raises:
        ConfigError: Anything that does not fit, in one line.
        SystemExit: After printing the help for `--help`.
    """
    paths, overrides = _split(sys.argv[1:] if argv is None else argv)
    wants_help = any(name == "help" for name, _ in overrides) or "-h" in paths
    if wants_help:
        paths = [path for path in paths if path != "-h"]
    elif len(paths) != 1:
        raise ConfigError(f"expected one config file first, got {paths}; call: train.py configs/x.yaml [--key value]")
    document = load_yaml(Path(paths[0])) if paths else {}
    trainer = _trainer([*document.items(), *overrides])
    parser = SectionParser(trainer)
    if wants_help:
        parser.print_help()
        raise SystemExit(0)
    values = {**parser.collect(_flatten(document, parser)), **parser.collect(overrides)}
    values = {name: value for name, value in values.items() if value is not None}
    return ExperimentConfig(
        trainer=trainer,
        training=_build(TRAINERS[trainer], values),
        model=_build(ModelArguments, values),
        task=_build(TaskArguments, values),
        config_path=Path(paths[0]),
        settings=parser.deviations(values),
    )


class SectionHelp(argparse.ArgumentDefaultsHelpFormatter):
    """Shows an option as `--section.key VALUE [--flat_name]`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flat, name = action.option_strings[0], action.option_strings[-1]
        return f"{name} {self._format_args(action, 'VALUE')}  [{flat}]"


class SectionParser(HfArgumentParser):
    """Knows every option of one trainer, its spellings, and how its text becomes a value."""

    def __init__(self, trainer: str):
        super().__init__(usage=USAGE, add_help=False, allow_abbrev=False, formatter_class=SectionHelp)
        self.trainer = trainer
        self.names: dict[str, str] = {}  # spelling -> field name
        self.dotted: dict[str, str] = {}  # field name -> section.key
        self.hints: dict[str, Any] = {}
        groups = {section: self.add_argument_group(section, text) for section, text in SECTIONS.items()}
        for cls in (ModelArguments, TaskArguments, TRAINERS[trainer]):
            hints = get_type_hints(cls)
            for option in fields(cls):
                if option.init and not (option.name in SHARED and option.name in self.dotted):
                    self._add(option, hints[option.name], groups)

    def _add(self, option: Field, hint: Any, groups: dict[str, Any]) -> None:
        name = dotted(option)
        section = name.partition(".")[0]
        self.dotted[option.name], self.hints[option.name] = name, hint
        self.names |= dict.fromkeys((option.name, name, f"{section}.{option.name}"), option.name)
        # a copy: HfArgumentParser writes into the field and hands its metadata to argparse, which formats help with %
        option = copy.copy(option)
        ours = ("section", "key", "known")
        metadata = {key: value for key, value in option.metadata.items() if key not in ours}
        known = f" One of: {', '.join(option.metadata['known'])}." if "known" in option.metadata else ""
        text = (metadata.get("help", "") + known).replace("%%", "%").replace("%", "%%")
        option.type, option.metadata = hint, metadata | {"help": text, "aliases": [f"--{name}"]}
        self._parse_dataclass_field(groups[section], option)
        if f"--no_{option.name}" in self._option_string_actions:
            self._option_string_actions[f"--no_{option.name}"].help = argparse.SUPPRESS

    def error(self, message: str):
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

    def deviations(self, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The values that are not defaults, as section -> key -> value."""
        sections: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if value != self.get_default(name):
                section, _, key = self.dotted[name].partition(".")
                sections.setdefault(section, {})[key] = value
        return sections

    def _positive(self, spelling: str, raw: Any) -> tuple[str, Any]:
        # transformers' `--no_flag`, offered for booleans that default to true
        flag = spelling.replace("-", "_")
        if raw == () and flag.startswith("no_") and f"--{flag}" in self._option_string_actions:
            return flag.removeprefix("no_"), "false"
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
        known = {t: {name for f in fields(cls) for name in (f.name, dotted(f))} for t, cls in TRAINERS.items()}
        others = [t for t, names in known.items() if {key, spelling} & names and t != self.trainer]
        if others and section in (*SECTIONS, ""):
            return f"only trainer {others[0]} has it, and this is trainer {self.trainer}"
        known = f"sections are {', '.join(SECTIONS)}" if section and section not in SECTIONS else "see --help"
        close = difflib.get_close_matches(spelling, self.names, n=1)
        return f"did you mean {self.dotted[self.names[close[0]]]!r}? ({known})" if close else known

    def _convert(self, name: str, raw: Any) -> Any:
        """The value of a field, from what YAML read or the texts after an option; None keeps the default."""
        action = self._option_string_actions[f"--{name}"]
        if raw is None or raw == "null":
            return None
        if isinstance(raw, str) and _admits(self.hints[name], dict):
            raw = _mapping(raw)
        plural = action.nargs == "+"
        if isinstance(raw, dict | list) and not plural and _admits(self.hints[name], type(raw)):
            return raw
        if not isinstance(raw, dict) and (plural or not isinstance(raw, list)):
            # a single text is joined by "=", or argparse takes -1e-5 for an option
            several = isinstance(raw, list | tuple)
            texts = [_text(item, action) for item in (raw if several else [raw])]
            argv = [f"--{name}", *texts] if several else [f"--{name}={texts[0]}"]
            with contextlib.suppress(ConfigError):
                return getattr(self.parse_args(argv), name)
        shown = "no value" if raw == () else repr(raw)
        raise ConfigError(f"{self.dotted[name]}: expected {_expected(action)}, got {shown}")


def _expected(action: argparse.Action) -> str:
    if action.choices:
        return f"one of {', '.join(map(str, action.choices))}"
    if action.nargs == "+":
        return "one or more values"
    return EXPECTED.get(action.type, getattr(action.type, "__name__", str(action.type)))


def _admits(hint: Any, kind: type) -> bool:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return any((get_origin(member) or member) is kind for member in members)


def _mapping(text: str) -> Any:
    """A JSON object as such; any other text as it is, such as the name of a file with one."""
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        return value if isinstance(value, dict) else text
    return text


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


def _build(cls: type, values: dict[str, Any]) -> Any:
    try:
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError) as error:  # TRL's and transformers' own checks
        raise ConfigError(f"section training: {' '.join(str(error).split())}") from error


class _StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


def load_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        # JSON is YAML, but for tabs as indentation
        document = yaml.load(text.replace("\t", " ") if path.suffix == ".json" else text, _StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"config file {path}{line}: {' '.join(str(problem).split())}") from error
    if document is None:
        raise ConfigError(f"config file {path}: empty")
    if not isinstance(document, dict):
        raise ConfigError(f"config file {path}: expected sections of key: value pairs, got {type(document).__name__}")
    return document
