"""The package's own door: names that are handed on when they are asked for, and no library before that."""

import importlib
import subprocess
import sys

import pytest
from paths import REPO

import trainers

HEAVY = ("torch", "transformers", "trl")
NAMES = {
    "ImprovedDiffuGRPOTrainer",
    "ImprovedDiffuGRPOConfig",
    "DiffusionSFTTrainer",
    "DiffusionSFTConfig",
    "DiffusionDPOTrainer",
    "DiffusionDPOConfig",
    "load_policy",
}


def test_the_import_of_the_package_loads_no_library():
    loaded = f"[name for name in {HEAVY} if name in sys.modules]"
    code = f"import sys, trainers; print({loaded}, 'load_policy' in dir(trainers))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_every_name_is_handed_on_from_where_it_lives():
    assert set(trainers.__all__) == NAMES <= set(dir(trainers))
    for name in NAMES:
        found = getattr(trainers, name)
        assert found.__name__ == name and found.__module__.startswith("trainers.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'trainers' has no attribute 'Trainer'$"):
        trainers.Trainer  # noqa: B018
    with pytest.raises(ImportError):
        from trainers import Trainer  # noqa: F401


@pytest.mark.parametrize(
    ("wing", "name"),
    [("grpo", "ImprovedDiffuGRPOTrainer"), ("sft", "DiffusionSFTTrainer"), ("dpo", "DiffusionDPOTrainer")],
)
def test_a_wing_hands_on_its_trainer(wing, name):
    assert getattr(importlib.import_module(f"trainers.{wing}"), name) is getattr(trainers, name)
