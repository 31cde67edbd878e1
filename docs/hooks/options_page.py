"""The page of all options, from the dataclasses that declare them, read without importing torch.

page()    its text in Markdown: by section, with default, allowed values, meaning and origin
"""

from dataclasses import dataclass

from trainers.settings.declarations import Declared, Unknown, Values, declared, names_in
from trainers.settings.options import SECTIONS, dotted
from trainers.settings.parser import COMMON, REFUSED, TRAINERS

LIBRARIES = {
    "transformers": [("transformers.training_args", "TrainingArguments")],
    "TRL": [("trl", "GRPOConfig"), ("trl", "SFTConfig"), ("trl", "DPOConfig")],
}
OURS = "this project"
INTRODUCTION = """---
hide: [toc]
---

# Options

Every option of a YAML file and of the command line. `section.key` is how the file and the command line name it;
the name below it, where there is one, is the field of the Python class; it works on the command line as well. Options
of TRL that a diffusion model cannot honour (vLLM, `top_p`, ...) are refused by the trainers and left out here.

```bash
python scripts/train.py configs/trajectory_nelbo_gsm8k.yaml --loss.alpha_schedule linear --learning_rate 2e-6
```
"""


@dataclass(frozen=True)
class Row:
    """An option as it is shown: its declaration, the trainers that have it, and the library that declared it first."""

    option: Declared
    trainers: tuple[str, ...]
    origin: str


def rows() -> dict[str, list[Row]]:
    """Section -> its options, in the order in which they are declared.

    An option whose default differs between trainers has a row for each default.
    """
    origins = _origins()
    found: dict[tuple[str, str], Row] = {}
    for trainer, place in TRAINERS.items():
        refused = names_in(*REFUSED[trainer])
        for option in [option for place in (*COMMON, place) for option in declared(*place).values()]:
            if option.name in refused or option.name.startswith("vllm_"):
                continue
            key = (dotted(option), repr(option.default))
            before = found[key].trainers if key in found else ()
            found[key] = Row(option, tuple(dict.fromkeys((*before, trainer))), origins.get(option.name, OURS))
    sections: dict[str, list[Row]] = {section: [] for section in SECTIONS}
    for row in found.values():
        sections[dotted(row.option).partition(".")[0]].append(row)
    return sections


def page() -> str:
    """The text of the page, in Markdown."""
    parts = [INTRODUCTION]
    for section, found in rows().items():
        parts.append(f"## {section}\n\n{SECTIONS[section][:1].upper()}{SECTIONS[section][1:]}.\n\n{_table(found)}")
    return "\n".join(parts)


def _origins() -> dict[str, str]:
    """Field name -> the library that declares it."""
    return {
        name: library
        for library, places in reversed(LIBRARIES.items())
        for place in places
        for name in declared(*place)
    }


def _table(found: list[Row]) -> str:
    lines = [
        "| option | type, allowed values | default | meaning | trainers | declared by |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda row: row.origin != OURS):
        option = row.option
        name = f'<a id="{dotted(option)}"></a>`{dotted(option)}`'
        if dotted(option).partition(".")[2] != option.name:
            name += f"<br>`{option.name}`"
        trainers = "all" if set(row.trainers) == set(TRAINERS) else ", ".join(row.trainers)
        cells = [_allowed(option), _default(option), option.metadata.get("help", ""), trainers, row.origin]
        lines.append(f"| {name} | " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _allowed(option: Declared) -> str:
    values = [value for kind in option.types if isinstance(kind, Values) for value in kind.values]
    if option.known or values:
        return ", ".join(f"`{value}`" for value in option.known or values)
    return " or ".join(_type(kind) for kind in option.types if kind != "None")


def _type(kind: object) -> str:
    item = getattr(kind, "item", None)
    return str(kind) if item is None else f"list of {_type(item)}"


def _default(option: Declared) -> str:
    if option.default is None:
        return "unset"
    if isinstance(option.default, Unknown):
        return f"computed: `{option.default}`"
    value = str(option.default).lower() if isinstance(option.default, bool) else str(option.default)
    return f"`{value}`" if value else "empty"


def _cell(text: str) -> str:
    """A cell of a table: one line, no bar of its own, and nothing that Markdown or HTML would read as markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("%%", "%")
