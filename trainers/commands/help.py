"""What `--help` prints: a command's own words and options first, then the sections of its config, a line each.

COMMAND --help             the command
COMMAND --help SECTION     the options of a section; of several, if several are named
COMMAND --help KEY         one option, by any of its spellings
COMMAND --help all         the command and all sections
"""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from trainers.commands import layout
from trainers.commands.program import CONSOLE, program
from trainers.settings.declarations import Unknown
from trainers.settings.options import SECTIONS, ConfigError
from trainers.settings.parser import TRAINERS, SectionParser, parser_for

HELP = {"-h", "--help"}
ALL = "all"
SHORT = {"-h, --help": "Show this and exit."}
LONG = {"-h, --help [TOPIC]": f"Show this, or a section, a setting, or {ALL}; then exit."}
TRAINER = {"--trainer VALUE": layout.explained("Overrides the trainer of the config.", TRAINERS)}


@dataclass(frozen=True)
class Command:
    """What help says of one command.

    Attributes:
        name: as usage lines have it.
        usage: what follows the name.
        summary, notes: the first line of its docstring, and the rest.
        arguments: name and meaning of what is no option.
        options: its own, as argparse has them.
        settings: whether the settings of a config may follow.
    """

    name: str
    usage: Sequence[str]
    summary: str
    notes: str
    arguments: Sequence[tuple[str, str]]
    options: Sequence[argparse.Action]
    settings: bool


def is_wanted(argv: list[str]) -> bool:
    """Whether a command line asks for help rather than for work."""
    return not HELP.isdisjoint(argv)


def answer(command: Command, argv: list[str]) -> str:
    """The help that a command line asks for.

    Raises:
        ConfigError: it asks for what there is not.
    """
    place = next(index for index, word in enumerate(argv) if word in HELP)
    topics = list(takewhile(lambda word: not word.startswith("-"), argv[place + 1 :]))
    others = argv[:place] + argv[place + 1 + len(topics) :]
    if not command.settings:
        if topics:
            raise ConfigError(f"--help {topics[0]}: {command.name} has no settings of a config, only --help")
        return overview(command, None)
    sections = parser_for(others)
    if not topics:
        return overview(command, sections)
    if ALL in topics:
        return "\n\n".join([overview(command, sections), *(section(sections, name) for name in held(sections))])
    return "\n\n".join(about(sections, topic) for topic in topics)


def overview(command: Command, sections: SectionParser | None) -> str:
    """The command itself, and what its config's sections hold."""
    options = [(option_name(action), option_text(action)) for action in command.options]
    parts = [
        layout.usage(command.name, *command.usage),
        layout.folded(command.summary),
        layout.block("arguments:", command.arguments),
        layout.block("options:", [*options, *(SHORT if sections is None else LONG).items()]),
    ]
    if sections is not None:
        rows = [(name, f"{SECTIONS[name]} ({count})") for name, count in held(sections).items()]
        title = f"settings of the config, by section (with their number, for trainer {sections.trainer}):"
        last = f"`{command.name} --help SECTION` has the settings of a section: each overrides the config's."
        parts += [layout.block(layout.folded(title), [*TRAINER.items(), *rows]), layout.folded(last)]
    parts.append(layout.notes(command.notes, swaps()))
    return "\n\n".join(filter(None, parts))


def modes(command: Command, summaries: dict[str, str]) -> str:
    """A command that consists of several: a line each.

    Args:
        command: what they share.
        summaries: mode -> what it does.
    """
    parts = [
        layout.usage(command.name, "MODE", "[arguments and options of the mode]"),
        layout.folded(command.summary),
        layout.block("modes:", summaries.items()),
        layout.block("options:", SHORT.items()),
        layout.folded(f"`{command.name} MODE --help` has the options of a mode."),
        layout.notes(command.notes, swaps()),
    ]
    return "\n\n".join(filter(None, parts))


def swaps() -> list[tuple[str, str]]:
    """What the examples of a docstring say -> how a command is called that the console runs."""
    if not program().startswith(CONSOLE):
        return []
    name = program().split()[1]
    script = f"scripts/{name}.py"
    return [(f"python {script}", f"{CONSOLE} {name}"), (f" {script} ", f" --no-python {CONSOLE} {name} ")]


def option_name(action: argparse.Action) -> str:
    """``--steps VALUE ...``: the spellings, and what follows them."""
    value = "" if action.nargs == 0 else str(action.metavar or "VALUE")
    value = {"+": f"{value} ...", "*": f"[{value} ...]", "?": f"[{value}]"}.get(str(action.nargs), value)
    return f"{', '.join(action.option_strings)} {value}".strip()


def option_text(action: argparse.Action) -> str:
    """The help of a command's own option, with what is allowed and the default."""
    default = None if action.default is False or action.default == [] else action.default
    return layout.explained(action.help or "", action.choices or (), default)


def held(sections: SectionParser) -> dict[str, int]:
    """Section -> number of its settings that this trainer has and does not refuse."""
    places = [name.partition(".")[0] for name in offered(sections).values()]
    return {name: places.count(name) for name in SECTIONS if name in places}


def offered(sections: SectionParser) -> dict[str, str]:
    """Field -> section.key of what a run may set: ours as they are declared, then TRL's by name."""
    names = [(field, name) for field, name in sections.dotted.items() if field not in sections.refused]
    ours = [row for row in names if "section" in sections.options[row[0]].metadata]
    return dict([*ours, *sorted(set(names) - set(ours))])


def about(sections: SectionParser, topic: str) -> str:
    """A section, or one setting by any of its spellings."""
    if topic in held(sections):
        return section(sections, topic)
    field = sections.names.get(topic.replace("-", "_"))
    if field in offered(sections):
        return layout.entry(*setting(sections, field))
    if field in sections.refused:
        raise ConfigError(f"--help {topic}: trainer {sections.trainer} refuses this option of TRL")
    names = [ALL, *held(sections), *offered(sections), *offered(sections).values()]
    close = difflib.get_close_matches(topic, names, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"--help {topic}: {guess}Expected a section ({', '.join(held(sections))}), a setting, or {ALL}")


def section(sections: SectionParser, name: str) -> str:
    """The settings of a section, with defaults and allowed values."""
    fields = [field for field, place in offered(sections).items() if place.startswith(f"{name}.")]
    return layout.block(layout.folded(f"{name}: {SECTIONS[name]}"), [setting(sections, field) for field in fields])


def setting(sections: SectionParser, field: str) -> tuple[str, str]:
    """``--section.key VALUE [--field]`` and its help."""
    option, name = sections.options[field], sections.dotted[field]
    action = sections.action(field)
    short = "" if name.endswith(f".{field}") else f"  [--{field}]"
    value = "VALUE ..." if action.nargs == "+" else "VALUE"
    default = option.default if not isinstance(option.default, Unknown) else f"{option.default} (computed)"
    text = " ".join(str(option.metadata.get("help", "")).replace("%%", "%").split())
    allowed = option.known or action.choices or ()
    return f"--{name} {value}{short}", layout.explained(text, allowed, layout.shown(default))
