"""The options page has every option that a run accepts, once, and none that a run refuses."""

import re
from dataclasses import fields

import pytest
from hooks import hook

from trainers.settings.config import CONFIGS
from trainers.settings.declarations import Declared, List, Unknown, Values
from trainers.settings.dpo import UNSUPPORTED_DPO
from trainers.settings.model import ModelArguments
from trainers.settings.options import SECTIONS, dotted
from trainers.settings.task import TaskArguments
from trainers.settings.unsupported import UNSUPPORTED, UNSUPPORTED_SFT

options = hook("options_page")
REFUSED = {"grpo": UNSUPPORTED, "sft": UNSUPPORTED_SFT, "dpo": UNSUPPORTED_DPO}
ROWS = [row for found in options.rows().values() for row in found]


@pytest.mark.parametrize("trainer", CONFIGS)
def test_a_trainer_has_its_options_and_no_refused_one(trainer):
    shown = [dotted(row.option) for row in ROWS if trainer in row.trainers]
    accepted = {
        dotted(field)
        for cls in (CONFIGS[trainer], ModelArguments, TaskArguments)
        for field in fields(cls)
        if field.init and field.name not in REFUSED[trainer] and not field.name.startswith("vllm_")
    }
    assert len(shown) == len(set(shown)) and set(shown) == accepted


def test_a_default_that_differs_between_trainers_has_a_row_for_each():
    rows = [row for row in ROWS if dotted(row.option) == "loss.source"]
    assert {row.option.default: row.trainers for row in rows} == {"rollout": ("grpo",), "forward": ("sft", "dpo")}


def test_origins_are_the_libraries():
    origin = {row.option.name: row.origin for row in ROWS}
    found = {origin[name] for name in ("alpha_schedule", "name_or_path", "task_seed") if name in origin}
    assert found == {options.OURS}
    assert origin["num_generations"] == "TRL" and origin["learning_rate"] == "transformers"


def test_the_page_has_a_section_each_and_a_row_an_option():
    page = options.page()
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(SECTIONS)
    assert len(re.findall(r"^\| <a id=", page, re.MULTILINE)) == len(ROWS)
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines() if line.startswith("| ")}
    assert cells == {7}, "a bar within a cell would make another one"


def test_cells_say_types_values_and_defaults():
    def option(types: tuple, default: object, known: tuple[str, ...] | None = None) -> Declared:
        return Declared("x", types, default, {"help": "a | b <c>\nd"}, known)

    row = options.Row(option(("str", "None"), None, ("one", "two")), ("grpo",), options.OURS)
    assert "| `one`, `two` | unset | a \\| b &lt;c> d | grpo | this project |" in options._table([row])
    assert options._allowed(option((List("int"), "None"), None)) == "list of int"
    assert options._allowed(option((Values(("x", "y")), "str"), "x")) == "`x`, `y`"
    assert options._default(option(("bool",), True)) == "`true`"
    assert options._default(option(("int",), Unknown("f()"))) == "computed: `f()`"
