"""What fails in a checkpoint's own code is told by file, line and versions; what is wrong with its files is not."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from zoo.standins import load

from trainers.settings.options import ConfigError

RUNS_NOT = rf"its own code does not run under transformers {transformers.__version__}"


def line_of(directory, file, text):
    lines = (directory / file).read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


@pytest.mark.parametrize(
    "name, file, old, new, said",
    [
        ("sdar", "modeling_sdar.py", "config.pad_token_id)", "config.pad_token_identity)", "AttributeError"),
        ("llada", "modeling_llada.py", "super().__init__(config)", "super().__init__(config); assert 0, 'no'", "no"),
        ("dream", "generation_dream.py", "if self.steps < 1:", "raise KeyError('steps')", "KeyError"),
        ("llada2", "modeling_llada2_moe.py", "TRACEABLE = is_torch", "TRACEABLE = gone and is_torch", "NameError"),
        ("a2d", "modeling_a2d.py", "masks[layer.attention_type]", "masks[layer.attention_kind]", "attention_kind"),
    ],
    ids=["building", "asserting", "settings", "importing", "running"],
)
def test_code_that_does_not_run_is_told_by_file_line_and_versions(edited, name, file, old, new, said):
    directory = edited(name, file, old, new)
    if name == "dream":  # the rest of what was an if
        text = (directory / file).read_text().split("            raise ValueError(f")[0]
        (directory / file).write_text(text + "\n\nclass DreamGenerationMixin:\n    pass\n")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"transformers_version": "4.46.2"}))
    with pytest.raises(ConfigError) as error:
        load(name, directory)
    found = str(error.value)
    assert f"{file}, line {line_of(directory, file, new)}: " in found and said in found, found
    assert f"under transformers {transformers.__version__}, it was written with 4.46.2" in found, found
    assert "expected 'tiny'" not in found and "model.probe=false" not in found, found


def test_what_transformers_raises_about_a_class_of_its_own_is_of_its_code_too(edited):
    directory = edited("llada", "modeling_llada.py", "return True", "return self.can_generate.gone")
    with pytest.raises(ConfigError, match=rf"{RUNS_NOT}.*can_generate|{RUNS_NOT}.*gone"):
        load("llada", directory)


@pytest.mark.parametrize("name", ["dream", "llada"])
def test_damaged_weights_are_not_blamed_on_the_code(edited, name):
    """Dream's own from_pretrained is on the way to them."""
    directory = edited(name, "parts.py", "import torch\n", "import torch\n")
    weights = load_file(directory / "model.safetensors")
    key = next(iter(weights))
    save_file(weights | {key: torch.zeros(3, 3)}, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"cannot be loaded; expected 'tiny'.*a directory with config.json"):
        load(name, directory)
    (directory / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"cannot be loaded; expected 'tiny'.*no file named"):
        load(name, directory)
