"""The rules by which text becomes a value are those of transformers' parser, for every option there is."""

import argparse
import copy
from dataclasses import Field, fields
from enum import Enum
from typing import get_type_hints

import pytest
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from trainers.settings.config import CONFIGS
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError
from trainers.settings.parser import SectionParser
from trainers.settings.task import TaskArguments
from trainers.settings.values import FALSE, TRUE, admits, mapping, switch

TEXTS = ("1", "-2", "0.5", "1e-5", "true", "No", "abc", "steps", "linear", "")


def theirs(field: Field, hint: type) -> HfArgumentParser:
    """transformers' own parser of one option."""
    parser = HfArgumentParser(add_help=False, allow_abbrev=False)
    field = copy.copy(field)
    field.type, field.metadata = hint, {"help": ""}
    parser._parse_dataclass_field(parser, field)
    return parser


def plain(value: object) -> object:
    return (
        [plain(item) for item in value]
        if isinstance(value, list)
        else value.value
        if isinstance(value, Enum)
        else value
    )


def read_by_theirs(parser: HfArgumentParser, name: str, texts: tuple[str, ...]) -> object:
    words = [f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts]
    try:
        return plain(getattr(parser.parse_args(words), name))
    except SystemExit:
        return "refused"


def read_by_ours(parser: SectionParser, name: str, texts: tuple[str, ...]) -> object:
    try:
        return parser.collect([(name, texts[0] if len(texts) == 1 else list(texts) or ())])[name]
    except ConfigError:
        return "refused"


@pytest.mark.parametrize("trainer", CONFIGS)
def test_every_option_reads_text_as_transformers_does(trainer, capsys):
    ours = SectionParser(trainer)
    for cls in (ModelArguments, TaskArguments, CONFIGS[trainer]):
        hints = get_type_hints(cls)
        for field in (field for field in fields(cls) if field.init):
            name, other = field.name, theirs(field, hints[field.name])
            if ours._option_string_actions[f"--{name}"].type is mapping:
                continue  # theirs calls dict or a class on the text, whatever that gives
            several = [] if admits(ours.options[name], list) else [("1", "2")]  # ours reads a list from a command line
            for texts in (*((text,) for text in TEXTS), (), *several):
                expected = read_by_theirs(other, name, texts)
                assert read_by_ours(ours, name, texts) == expected, (name, texts)


def test_a_switch_is_read_as_transformers_does():
    for text in (*TRUE, *FALSE, "TRUE", "oN", "2", ""):
        try:
            expected = string_to_bool(text)
        except argparse.ArgumentTypeError:
            with pytest.raises(argparse.ArgumentTypeError):
                switch(text)
        else:
            assert switch(text) is expected
