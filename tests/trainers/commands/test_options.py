"""The words and options of a command: in any order, each mistake one line."""

from pathlib import Path

import pytest
from paths import CONFIGS

from trainers.commands import OptionParser
from trainers.settings.options import ConfigError

CONFIG = str(CONFIGS / "trajectory_nelbo_gsm8k.yaml")


@pytest.fixture
def parser():
    found = OptionParser("Do something.")
    found.prog = "something"
    found.add_word("MODEL", "Which.")
    found.add_config(optional=True)
    found.add_argument("--repeats", type=int, default=1, help="How often.")
    found.add_argument("--texts", action="store_true", help="Say more.")
    found.add_json("the numbers")
    return found


SETTINGS = ["--loss.alpha_min", "0.1", "--model.use_peft"]


@pytest.mark.parametrize(
    "argv",
    [
        ["tiny", "c.yaml", "--repeats", "3", "--texts", *SETTINGS],
        ["--repeats", "3", "--texts", "tiny", "c.yaml", *SETTINGS],
        ["tiny", "--repeats", "3", "c.yaml", *SETTINGS, "--texts"],
        ["--texts", "tiny", "c.yaml", *SETTINGS, "--repeats=3"],
    ],
)
def test_own_options_may_stand_anywhere(parser, argv):
    options, settings = parser.parse(argv)
    assert (options.model, options.config, options.repeats, options.texts) == ("tiny", "c.yaml", 3, True)
    assert settings == SETTINGS


def test_a_word_that_may_be_left_out_is_none(parser):
    options, settings = parser.parse(["tiny", *SETTINGS])
    assert options.config is None and settings == SETTINGS


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], r"expected MODEL \[CONFIG\], got nothing; usage: something MODEL \[CONFIG\] \[options\] \[--SECTION"),
        (["a", "b", "c"], r"expected MODEL \[CONFIG\], got a b c; usage"),
        (["a", "--repeats", "many"], "argument --repeats: invalid int value: 'many'"),
        (["a", "--json", "/proc/nowhere/x.json"], "--json /proc/nowhere/x.json: "),
    ],
)
def test_a_mistake_is_one_line(parser, argv, named):
    with pytest.raises(ConfigError, match=named):
        parser.parse(argv)


def test_the_folder_of_the_record_is_made_before_the_work(parser, tmp_path):
    parser.parse(["a", "--json", str(tmp_path / "new" / "x.json")])
    assert (tmp_path / "new").is_dir()


def test_words_are_read_by_their_type():
    parser = OptionParser("Do something.")
    parser.add_word("BEFORE", "One.", type=Path)
    options, _ = parser.parse(["a.json"])
    assert options.before == Path("a.json")


def test_a_command_without_settings_refuses_them_with_the_closest_option():
    parser = OptionParser("Do something.")
    parser.add_argument("--table", action="store_true", help="Show.")
    with pytest.raises(ConfigError, match=r"unknown option --tabel: did you mean --table\?"):
        parser.parse(["--tabel"])


@pytest.mark.parametrize(
    ("typo", "named"),
    [
        ("repeat", "did you mean --repeats, an option of the command?"),
        ("los.alpha_min", "did you mean 'loss.alpha_min'?"),
    ],
)
def test_a_typo_is_looked_for_among_own_options_and_settings(parser, typo, named):
    options, settings = parser.parse(["tiny", CONFIG, f"--{typo}", "3"])
    with pytest.raises(ConfigError) as caught:
        parser.read(options.config, settings)
    assert named in str(caught.value)
