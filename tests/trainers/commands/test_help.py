"""Help: a command's own words and options first, then a line for each section; the rest when it is asked for."""

import os
import re
import subprocess
import sys

import pytest
from paths import CONFIGS, REPO, SCRIPTS

from trainers.commands import OptionParser, layout
from trainers.commands.help import offered, setting
from trainers.settings.options import SECTIONS, ConfigError
from trainers.settings.parser import TRAINERS, SectionParser
from trainers.settings.unsupported import UNSUPPORTED, UNSUPPORTED_SFT

DOC = """Do something.

    python scripts/something.py CONFIG --often 3

And say so.
"""


@pytest.fixture
def parser():
    found = OptionParser(DOC)
    found.prog = "something"
    found.add_config()
    found.add_argument("--often", type=int, default=4, help="How often.")
    found.add_argument("--how", choices=("well", "badly"), default="well", help="In which way.")
    found.add_argument("--which", nargs="+", default=["a", "b"], help="Of these.")
    found.add_argument("--loud", action="store_true", help="Say more.")
    found.add_argument("--must", required=True, help="Needed.")
    return found


@pytest.fixture
def ask(parser, capsys):
    """Words -> what is printed for them."""

    def answer(*words):
        with pytest.raises(SystemExit) as caught:
            parser.parse([*words])
        assert caught.value.code == 0
        return capsys.readouterr().out

    return answer


@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_own_options_come_first_with_defaults_and_allowed_values(ask, asked):
    text = ask(asked)
    assert text.startswith("usage: something CONFIG --must VALUE [options] [--SECTION.KEY VALUE ...]\n\nDo something.")
    flat = " ".join(text.split())
    assert "--often VALUE How often. Default: 4." in flat
    assert "--how VALUE In which way. One of: well, badly. Default: well." in flat
    assert "--which VALUE ... Of these. Default: a b." in flat
    assert "--loud Say more. --must" in flat
    places = [
        text.index(part) for part in ("CONFIG  ", "--often", "--help [TOPIC]", "--trainer", "generation ", "And say")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_section_that_the_trainer_has_is_one_line(ask, trainer):
    lines = ask("--trainer", trainer, "--help").splitlines()
    parser = SectionParser(trainer)
    counts = {name: sum(place.startswith(f"{name}.") for place in offered(parser).values()) for name in SECTIONS}
    for section, count in counts.items():
        found = [line for line in lines if line.startswith(f"  {section} ")]
        assert [line.endswith(f"({count})") for line in found] == [True] * (count > 0), section
    assert ("preferences" in " ".join(lines)) == (trainer == "dpo")


def test_the_trainer_is_that_of_the_config(ask):
    path = str(CONFIGS / "vrpo_gsm8k.yaml")
    assert "--preferences.data_files VALUE ..." in ask(path, "--help", "preferences")
    assert "--preferences.data_files VALUE ..." in ask("vrpo_gsm8k", "-h", "preferences")


def test_a_section_alone_is_printed_when_it_is_asked_for(ask):
    text = ask("--help", "loss")
    assert text.startswith(f"loss: {SECTIONS['loss']}\n")
    assert "--often" not in text and "--model." not in text
    assert "One of: cosine, linear, exponential. Default: cosine." in " ".join(text.split())


@pytest.mark.parametrize("topic", ["max_timesteps", "generation.steps", "generation.max-timesteps"])
def test_one_setting_is_printed_by_any_of_its_spellings(ask, topic):
    text = ask("--help", topic)
    assert text.startswith("  --generation.steps VALUE  [--max_timesteps]\n")
    assert text.count("--") == 2


def test_several_topics_are_answered_in_turn(ask):
    text = ask("--help", "masking", "task", "--trainer", "sft")
    assert text.index("masking: ") < text.index("task: ")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_all_is_everything(ask, trainer):
    text = ask("--help", "all", "--trainer", trainer)
    assert "--often VALUE" in text
    parser = SectionParser(trainer)
    assert all(f"\n  --{name} VALUE" in text for name in offered(parser).values())
    assert "cost of ~10% slower performance" in " ".join(text.split())  # of a text with %% in it


@pytest.mark.parametrize(("trainer", "refused"), [("grpo", UNSUPPORTED), ("sft", UNSUPPORTED_SFT)])
def test_what_the_trainer_refuses_is_left_out(ask, trainer, refused):
    text = ask("--help", "all", "--trainer", trainer)
    assert [name for name in refused if re.search(rf"--(\w+\.)?{name} ", text)] == []
    with pytest.raises(ConfigError, match=f"trainer {trainer} refuses this option"):
        ask("--trainer", trainer, "--help", next(iter(refused)))


def test_a_topic_that_there_is_not_is_refused_with_the_closest(parser):
    with pytest.raises(ConfigError, match=r"--help los: did you mean 'loss'\? Expected a section \(generation, "):
        parser.parse(["--help", "los"])


def test_a_command_without_settings_has_no_sections(capsys):
    parser = OptionParser("Do little.")
    with pytest.raises(SystemExit):
        parser.parse(["--help"])
    assert "settings" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no settings of a config"):
        parser.parse(["--help", "loss"])


@pytest.mark.parametrize("columns", [60, 80, 300])
@pytest.mark.parametrize("topic", [[], ["all"]])
def test_lines_fit_the_terminal(ask, monkeypatch, columns, topic):
    monkeypatch.setenv("COLUMNS", str(columns))
    long = [line for line in ask("--help", *topic).splitlines() if len(line) >= min(columns, layout.WIDEST + 1)]
    assert all(len(line.split()) == 1 + (line.split()[0][:2] == "--") + ("[--" in line) for line in long), long


@pytest.mark.parametrize("trainer", TRAINERS)
def test_help_of_ours_is_in_sentences(trainer):
    parser = SectionParser(trainer)
    ours = {f: o.metadata["help"] for f, o in parser.options.items() if "section" in o.metadata}
    assert [field for field, text in ours.items() if not text.endswith((".", ")"))] == []
    assert all(setting(parser, field)[1].endswith(".") for field in parser.options)


def test_a_reader_that_has_seen_enough_is_no_error():
    """What `--help all | head -1` does: the pipe is closed before all is written."""
    words = [sys.executable, str(SCRIPTS / "train.py"), "--help", "all"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_examples_are_broken_as_a_shell_reads_them(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = layout.notes("    python scripts/x.py CONFIG --alpha 1 --beta 2 --gamma three\n\nSome text.")
    *lines, _, last = text.splitlines()
    assert last == "Some text."
    assert [line.endswith(" \\") for line in lines] == [True] * (len(lines) - 1) + [False]
    joined = " ".join(" ".join(line.removesuffix("\\") for line in lines).split())
    assert joined == "python scripts/x.py CONFIG --alpha 1 --beta 2 --gamma three"
    assert any(line.strip().startswith("--gamma three") for line in lines)
