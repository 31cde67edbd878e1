"""A run with LoRA from end to end: its directories are evaluated, trained on, exported, and read by transformers."""

import json
import re

import pytest
import torch
import yaml
from running import SMALL, fork
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainers.models.loading import load_policy
from trainers.settings.model import ModelArguments


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """A finished run on an adapter: its directory and the config of somebody who knows nothing of it."""
    work = tmp_path_factory.mktemp("lora")
    small = SMALL | {"task": SMALL["task"] | {"validation_size": 8, "test_size": 8}}
    document = {"trainer": "grpo", **small, "model": {"name_or_path": str(model), "use_peft": True, "lora_r": 2}}
    document["training"] = SMALL["training"] | {"output_dir": "out", "num_generations": 4, "beta": 0.1}
    (work / "config.yaml").write_text(yaml.safe_dump(document))
    (work / "plain.yaml").write_text(yaml.safe_dump({"trainer": "grpo", **small}))
    fork("train.py", "config.yaml", "--task.rewards", "digits", "--learning_rate", "0.05", cwd=work)
    return work


def test_run_leaves_whole_directories_of_its_adapter(run):
    for name in ("model", "checkpoint-1", "checkpoint-2"):
        there = {path.name for path in (run / "out" / name).iterdir()}
        assert {"adapter_model.safetensors", "adapter_config.json", "config.json", "README.md"} <= there
        assert {"tokenizer.json", "provenance.json"} <= there and "model.safetensors" not in there
    text = (run / "out" / "model" / "README.md").read_text()
    assert re.search(r"\| greedy strict \| \d", text), "accuracies before and after"
    assert "lora_r: 2" in text and "sha256" in text
    assert not (run / "out" / "README.md").exists()


def evaluated(work, *arguments):
    fork("evaluate.py", "plain.yaml", *arguments, "--json", "found.json", "--texts", cwd=work)
    found = json.loads((work / "found.json").read_text())["rows"][0]["completions"]
    for path in ("found.json", "found.jsonl"):
        (work / path).unlink()
    return found


def test_adapter_merged_adapter_and_export_are_evaluated_alike(run):
    """Nothing but the directory is named: base, tokenizer and nature come with it."""
    name = "--model.name_or_path"
    merged = evaluated(run, name, "out/model")
    applied = evaluated(run, name, "out/model", "--model.use_peft", "true")
    earlier = evaluated(run, name, "out/checkpoint-1")
    fork("export.py", "out/model", "--output", "exported", cwd=run)
    exported = evaluated(run, name, "exported")
    assert merged == applied == exported != earlier


@pytest.mark.parametrize("name", ["model", "checkpoint-1"])
def test_generation_takes_an_adapter(run, name):
    assert "forwards" in fork("generate.py", "plain.yaml", "--model.name_or_path", f"out/{name}", cwd=run)


def test_adapter_is_trained_on_and_resumed(run):
    told = ["config.yaml", "--task.rewards", "digits", "--model.name_or_path", "out/model", "--output_dir", "on"]
    fork("train.py", *told, "--max_steps", "1", cwd=run)
    fork("train.py", *told, "--max_steps", "2", "--resume_from_checkpoint", "true", cwd=run)
    configs = [json.loads((run / path / "model" / "adapter_config.json").read_text()) for path in ("out", "on")]
    assert configs[0]["base_model_name_or_path"] == configs[1]["base_model_name_or_path"]
    card = (run / "on" / "model" / "README.md").read_text()
    assert "| greedy strict | " in card


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_exported_directory_is_read_by_transformers_alone(run, tmp_path, dtype):
    options = ["--dtype", dtype] if dtype else []
    fork(
        "export.py", "config.yaml", "--model.name_or_path", "out/model", "--output", tmp_path / "x", *options, cwd=run
    )
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "x").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "x")
    assert plain.config.is_causal is False and tokenizer.mask_token == "[MASK]"
    assert plain.dtype == getattr(torch, dtype or "float32")
    assert {value.dtype for value in load_file(tmp_path / "x" / "model.safetensors").values()} == {plain.dtype}
    merged = load_policy(ModelArguments(model_name_or_path=str(run / "out" / "model"))).model.eval()
    expected = {key: value.to(plain.dtype) for key, value in merged.state_dict().items()}
    assert all(torch.equal(value, expected[key]) for key, value in plain.state_dict().items())
    ids = torch.randint(3, 60, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, same = (model(input_ids=ids).logits for model in (plain, merged))
        ids[0, -1] += 1
        changed = plain(input_ids=ids).logits
    assert dtype or torch.equal(found, same)
    assert (changed[0, 0] - found[0, 0]).abs().max() > 1e-4, "the first position sees the last"


def test_export_over_something_is_refused(run):
    with pytest.raises(AssertionError, match="--output out: it is there already"):
        fork("export.py", "out/model", "--output", "out", cwd=run)
