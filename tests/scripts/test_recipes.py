"""Every recipe: its config is read, its numbers say where they come from, its README shows what scripts/plan.py
prints, and on a stand-in of its family scripts/doctor.py finds it fit and scripts/train.py trains. A new recipe is
tested by being there."""

import json
import math
import re

import pytest
import recipes
import yaml
from paths import REPO
from real_models import REAL_MODELS
from running import fork
from transformers import AutoTokenizer

from trainers.models.families import FAMILIES
from trainers.planning.published import PUBLISHED
from trainers.planning.settings import read_config
from trainers.settings.hub_names import HUB_IDS, hub_id
from trainers.settings.options import SECTIONS

configs = pytest.mark.parametrize("path", recipes.PATHS.values(), ids=recipes.PATHS)
readmes = pytest.mark.parametrize("readme", recipes.READMES.values(), ids=recipes.READMES)
NUMBER = re.compile(r"^\s*(\w+): (-?[\d.]+(?:e-?\d+)?)\b")
TOLD = ("## Where the numbers come from", "## Cost", "## Start", "## What to expect", "## Not run")


def config_of(path):
    return read_config(str(path), [], 8)


def family_of(path):
    architecture = PUBLISHED[config_of(path).model.model_name_or_path]["architectures"][0]
    return next(name for name, family in FAMILIES.items() if family.holds(architecture))


@configs
def test_a_recipe_says_what_deviates_from_the_defaults_and_nothing_else(path):
    config, document = config_of(path), yaml.safe_load(path.read_text())
    written = {(section, key) for section in SECTIONS for key in document.get(section, {})}
    deviating = {(section, key) for section, values in config.settings.items() for key in values}
    assert written == deviating
    assert config.model.model_name_or_path in HUB_IDS.values()


@configs
def test_every_number_of_a_recipe_says_where_it_comes_from(path):
    silent = [line for line in path.read_text().splitlines() if NUMBER.match(line) and "#" not in line]
    assert silent == []


@configs
def test_a_recipe_has_a_readme_that_names_it(path):
    assert f"scripts/train.py {path.relative_to(REPO)}" in (path.parent / "README.md").read_text()


@readmes
def test_a_readme_tells_cost_launch_expectation_and_what_was_not_run(readme):
    text = readme.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == list(TOLD)
    assert all(len(line) <= 119 for line in text.splitlines() if "scripts/" not in line)


@readmes
def test_a_readme_shows_what_the_plan_prints(readme):
    """If this fails, look at the difference, then run: python tests/helpers/recipes.py"""
    shown = list(recipes.PLAN.finditer(readme.read_text()))
    assert shown, "no plan is shown"
    for found in shown:
        assert recipes.printed(found["words"]) == found["printed"]
        assert "start it:" in found["printed"], "what is shown must fit"


def test_a_short_name_is_its_hub_id_everywhere(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text("model: {name_or_path: LLaDA-8B, adapter_base: sdar-4b}\n")
    model = read_config(str(config), [], 1).model
    assert (model.model_name_or_path, model.adapter_base) == ("GSAI-ML/LLaDA-8B-Instruct", "JetLM/SDAR-4B-Chat")
    (tmp_path / "llada-8b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_id("llada-8b") == "llada-8b"  # a directory that is there


# ---- on stand-ins ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stand_in(model, tmp_path_factory):
    """family -> the directory of a checkpoint with original names."""
    known = {}

    def written(family):
        if family not in known:
            known[family] = tmp_path_factory.mktemp(family)
            recipes.write_stand_in(family, AutoTokenizer.from_pretrained(model), known[family])
        return known[family]

    return written


@configs
def test_a_recipe_trains_on_a_stand_in_of_its_family(path, stand_in, tmp_path):
    fork("train.py", path, "--model.name_or_path", stand_in(family_of(path)), *recipes.small(path), cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    norms = [entry["grad_norm"] for entry in results["log_history"] if "grad_norm" in entry]
    assert len(norms) == 2 and all(map(math.isfinite, norms)) and max(norms) > 0
    asked, kept = yaml.safe_load(path.read_text())["training"], results["settings"]["training"]
    overridden = {word.removeprefix("--training.") for word in recipes.small(path)}
    assert {name: asked[name] for name in asked.keys() - overridden}.items() <= kept.items()


@configs
def test_a_stand_in_of_its_family_is_fit_for_a_recipe(path, stand_in, tmp_path):
    found = examined(path, stand_in(family_of(path)), tmp_path)
    assert found["fit"] is True and {"SFT, 3 steps", "GRPO, 3 steps"} <= found["outcomes"].keys()
    assert found["outcomes"]["memory"] == "ok" and set(found["outcomes"].values()) <= {"ok", "note", "not run"}


@configs
def test_the_public_files_of_its_family_are_fit_for_a_recipe(path, tmp_path):
    real = REAL_MODELS[family_of(path)]
    if real.missing:
        pytest.skip(real.missing)
    bare = ["--task.chat_template", "false", "--task.system_prompt", "null"]  # some have no template
    assert examined(path, real.path, tmp_path, *bare)["fit"] is True


def examined(path, directory, tmp_path, *words):
    """What scripts/doctor.py writes down."""
    named = "--model.name_or_path", directory, "--train", "--json", tmp_path / "found.json"
    fork("doctor.py", path, *named, *words, cwd=tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    return found | {"outcomes": {one["check"]: one["outcome"] for one in found["findings"]}}
