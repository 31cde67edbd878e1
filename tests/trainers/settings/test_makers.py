"""A model that is not there yet names the config that makes it."""

from pathlib import Path

import pytest
import yaml
from paths import CONFIGS, REPO

from trainers.experiment import load_experiment_policy
from trainers.settings.config import parse
from trainers.settings.makers import check_made
from trainers.settings.options import ConfigError

SHIPPED = sorted(CONFIGS.glob("*.yaml"))
NEEDS = [path for path in SHIPPED if yaml.safe_load(path.read_text())["model"]["name_or_path"].startswith("runs/")]


def test_some_shipped_configs_start_from_another_ones_model():
    assert len(NEEDS) >= 4


@pytest.mark.parametrize("path", NEEDS, ids=lambda path: path.stem)
def test_it_is_said_which_config_makes_it(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where nothing was trained
    config = parse([str(path)])
    maker = CONFIGS / f"{Path(config.model.model_name_or_path).parent.name}.yaml"
    assert maker.is_file()
    with pytest.raises(ConfigError) as caught:
        load_experiment_policy(config)
    assert str(caught.value).endswith(f"it is what {maker.name} trains; run first: python scripts/train.py {maker}")


def test_configs_of_the_working_directory_are_looked_at_too(monkeypatch, tmp_path):
    monkeypatch.chdir(REPO)
    with pytest.raises(ConfigError, match=r"run first: python scripts/train\.py configs/sft_sudoku\.yaml"):
        check_made("runs/sft_sudoku/checkpoint-500", tmp_path / "mine.yaml")


def test_what_is_there_and_what_nobody_makes_is_left_to_loading(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.yaml").write_text("training: [")
    (tmp_path / "list.yaml").write_text("- 1")
    check_made("org/name", tmp_path / "mine.yaml")
    (tmp_path / "parent.yaml").write_text("training: {output_dir: out}")
    (tmp_path / "out/model").mkdir(parents=True)
    check_made("out/model", tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"'out/other' is not there yet: it is what parent\.yaml trains"):
        check_made("out/other", tmp_path / "mine.yaml")
