"""A config is found by name from anywhere; a file of the user's goes first."""

import json
import os
from pathlib import Path

import pytest
import yaml
from paths import CONFIGS

from trainers.settings import config as config_module
from trainers.settings import shipped as shipped_module
from trainers.settings.config import parse
from trainers.settings.launching import TOLD_DEEPSPEED, settle_deepspeed
from trainers.settings.options import ConfigError
from trainers.settings.shipped import SUFFIXES, find_config, find_or_none, shipped
from trainers.studies.leaderboard.board import read_leaderboard

GSM8K = CONFIGS / "trajectory_nelbo_gsm8k.yaml"
FILES = sorted(path for suffix in SUFFIXES for path in CONFIGS.rglob(f"*{suffix}"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder that has no configs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_file_is_found_by_name_and_by_its_path_in_a_checkout(path):
    place = path.relative_to(CONFIGS)
    name = place.with_suffix("").as_posix().removesuffix("/config")
    for text in (name, place.as_posix(), f"configs/{place.as_posix()}", f"./configs/{name}", f"configs/{name}/"):
        assert find_config(text) == path
    assert shipped()[name] == path


@pytest.mark.parametrize(
    "text",
    ["big-on-one", "recipes/big-on-one", "configs/recipes/big-on-one/", "configs/recipes/big-on-one/config.yaml"],
)
def test_a_recipe_goes_by_the_name_of_its_folder(monkeypatch, tmp_path, text):
    path = tmp_path / "package" / "recipes" / "big-on-one" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(shipped_module, "CONFIGS", tmp_path / "package")
    monkeypatch.setattr(shipped_module, "shipped", shipped.__wrapped__)
    assert find_config(text) == path


def test_no_two_files_have_one_name():
    assert len(shipped()) == len(FILES)


@pytest.mark.parametrize("text", ["trajectory_nelbo_gsm8k", "configs/trajectory_nelbo_gsm8k.yaml"])
@pytest.mark.parametrize("place", ["{}", "{}.yaml", "{}.json", "{}/config.yaml"])
def test_a_file_of_the_user_s_goes_first(elsewhere, text, place):
    own = Path(place.format(text))
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("trainer: sft")
    assert find_config(text) == own
    assert parse([text]).trainer == "sft"


def test_a_run_takes_its_config_by_name():
    config = parse(["trajectory_nelbo_gsm8k", "--max_steps", "2"])
    assert config.training.max_steps == 2
    assert config.config_path == GSM8K


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("trajectory_nelbo_gsm9k", "did you mean trajectory_nelbo_gsm8k or "),
        ("configs/sft_sudko.yaml", "did you mean sft_sudoku"),
        ("nowhere.yaml", "`trajectory-nelbo configs` lists those of the package"),
    ],
)
def test_an_unknown_name_lists_the_closest(text, named):
    assert find_or_none(text) is None
    with pytest.raises(ConfigError) as caught:
        find_config(text)
    assert str(caught.value).startswith(f"config file {text}: No such file or directory; ") and named in str(
        caught.value
    )


def test_a_folder_without_a_config_is_called_one(elsewhere):
    Path("runs").mkdir()
    with pytest.raises(ConfigError, match=r"config file runs: a folder without config\.yaml in it"):
        find_config("runs")


@pytest.mark.parametrize("path", sorted((CONFIGS / "leaderboards").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_leaderboard_finds_its_base_from_anywhere(path):
    board = read_leaderboard(find_config(f"leaderboards/{path.stem}"))
    config = board.config(board.names[1], board.seeds[0])
    assert config.config_path == find_config(board.base)


def test_deepspeed_s_files_are_found_from_anywhere(elsewhere):
    """What `--deepspeed` names, and what a file of `accelerate launch` names, relative to a checkout."""
    told = yaml.safe_load((CONFIGS / "accelerate" / "deepspeed_zero2.yaml").read_text())
    file = told["deepspeed_config"]["deepspeed_config_file"]
    environment = {TOLD_DEEPSPEED: file}
    found = settle_deepspeed({"deepspeed": "configs/accelerate/zero3.json", "seed": 1}, environment)
    assert json.loads(Path(environment[TOLD_DEEPSPEED]).read_text())["zero_optimization"]["stage"] == 2
    assert json.loads(Path(found["deepspeed"]).read_text())["zero_optimization"]["stage"] == 3
    assert found["seed"] == 1


def test_a_run_reads_deepspeed_s_file_from_anywhere(monkeypatch):
    """The dataclass is given a path that is there; what is recorded is what was asked for."""
    given = []
    monkeypatch.setattr(config_module, "_build", lambda cls, values: given.append(values) or cls())
    config = parse(["trajectory_nelbo_gsm8k", "--deepspeed", "configs/accelerate/zero2.json"])
    assert given[0]["deepspeed"] == str(CONFIGS / "accelerate" / "zero2.json")
    assert config.settings["training"]["deepspeed"] == "configs/accelerate/zero2.json"


def test_deepspeed_s_options_in_place_of_a_file_are_left_alone():
    environment: dict[str, str] = {}
    assert settle_deepspeed({"deepspeed": {"x": 1}}, environment) == {"deepspeed": {"x": 1}}
    assert settle_deepspeed({}, environment) == {} and environment == {}
    assert TOLD_DEEPSPEED not in os.environ
