"""A natively read model goes back to the names, bits and files of its original; so does an adapter on it."""

import json
from dataclasses import replace

import originals
import pytest
import torch
from originals import ORIGINALS
from peft import get_peft_model
from running import fork
from safetensors.torch import load_file

from trainers.models.adapters import lora_config
from trainers.models.loading import load_policy
from trainers.models.native.originals import original_record, save_original, save_original_adapter
from trainers.models.native.records import Unsupported
from trainers.settings.model import ModelArguments

ADDED = {"diffusion", "mask_token_id"}  # what was settled here


@pytest.fixture
def written(tokenizer, tmp_path):
    """A checkpoint of a kind, and the policy that was read from it."""

    def write(name, folder="original", **entries):
        weights = originals.write(name, tokenizer, tmp_path / folder, **entries)
        arguments = ModelArguments(str(tmp_path / folder))
        return tmp_path / folder, weights, load_policy(arguments, block_length=ORIGINALS[name].block_length)

    (tmp_path / "original").mkdir()
    (tmp_path / "other").mkdir()
    return write


@pytest.mark.parametrize("name", ORIGINALS)
def test_names_bits_config_and_files_come_back(written, tmp_path, name):
    directory, weights, policy = written(name)
    policy.model.save_pretrained(tmp_path / "trained")
    policy.tokenizer.save_pretrained(tmp_path / "trained")
    trained = load_policy(ModelArguments(str(tmp_path / "trained")), block_length=ORIGINALS[name].block_length)
    save_original(trained.model, original_record(trained), str(directory), tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(back[key].dtype == weight.dtype and torch.equal(back[key], weight) for key, weight in weights.items())
    was, now = (json.loads((path / "config.json").read_text()) for path in (directory, tmp_path / "back"))
    assert now.pop("torch_dtype") == "float32" and was.pop("torch_dtype") == "bfloat16"
    assert {key: value for key, value in now.items() if key not in ADDED} == was
    assert {path.name for path in (tmp_path / "back").iterdir()} == {path.name for path in directory.iterdir()}
    again = load_policy(ModelArguments(str(tmp_path / "back")), block_length=ORIGINALS[name].block_length)
    assert all(
        torch.equal(one, other) for one, other in zip(again.model.parameters(), policy.model.parameters(), strict=True)
    )
    # and the model is what it was: saved under transformers' names
    trained.model.save_pretrained(tmp_path / "on")
    assert (
        load_file(tmp_path / "on/model.safetensors").keys() == load_file(tmp_path / "trained/model.safetensors").keys()
    )


def test_the_original_of_another_model_is_refused(written, tmp_path):
    _, _, policy = written("llada")
    record = original_record(policy)
    for name, entries, seen in (
        ("llada", {"rope_theta": 10_000.0}, "it has rope_parameters=.*10000.0.*, the model .*500000.0"),
        ("dream", {}, "is a DreamModel, expected the original, a LLaDAModelLM"),
    ):
        directory, _, _ = written(name, "other", **entries)
        with pytest.raises(Unsupported, match=seen):
            save_original(policy.model, record, str(directory), tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["llada", "dream", "sdar"])
def test_an_adapter_gets_the_names_of_the_original_s_modules(written, tmp_path, name):
    directory, weights, policy = written(name)
    told = ModelArguments(use_peft=True, lora_r=2)
    adapted = get_peft_model(policy.model, lora_config(told, policy.model))
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn(weight.shape, generator=noise) * 0.1)
    record = original_record(replace(policy, model=adapted))
    save_original_adapter(adapted, record, str(directory), tmp_path / "adapter")
    added = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    names = {key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in added}
    assert set(config["target_modules"]) == names and len(added) == 2 * len(names) == 28
    assert {f"{name}.weight" for name in names} < weights.keys() and config["task_type"] is None
    # merged by hand under the original's names, it is the adapted model
    scale = config["lora_alpha"] / config["r"]
    merged = dict(weights)
    for module in names:
        a, b = (added[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
        merged[f"{module}.weight"] = merged[f"{module}.weight"] + scale * b @ a
    ids = torch.randint(5, 200, (12,), generator=noise)
    visible = torch.ones(12, 12, dtype=torch.bool)
    with torch.no_grad():
        found = adapted.eval()(input_ids=ids[None], attention_mask=visible[None, None]).logits[0]
    expected = originals.logits(name, merged, ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_an_adapter_on_a_part_of_a_matrix_is_refused(written, tmp_path):
    directory, _, policy = written("llada2")
    told = ModelArguments(use_peft=True, lora_r=2, lora_target_modules=["q_proj"])
    adapted = get_peft_model(policy.model, lora_config(told, policy.model))
    with pytest.raises(Unsupported, match=r"q_proj.* is a part of attention\.query_key_value\.weight .*: merge it"):
        save_original_adapter(adapted, original_record(policy), str(directory), tmp_path / "adapter")


def test_the_script_gives_the_names_back(written, tmp_path):
    directory, weights, _ = written("llada")
    work = tmp_path / "work"
    work.mkdir()
    fork("export.py", directory, "--output", "plain", cwd=work)
    for told, message in (
        (["--format", "original"], "--original 'original': expected the original's directory or hub id"),
        (["--original", "original"], "only with --format original"),
        (["--format", "original", "--original", "plain"], "'plain' is a LlamaForCausalLM, expected the original"),
        (
            ["--format", "original", "--original", "../original", "--keep_adapter"],
            "--keep_adapter: 'plain' is no adapter",
        ),
    ):
        with pytest.raises(AssertionError, match=message):
            fork("export.py", "plain", "--output", "no", *told, cwd=work)
    fork("export.py", "plain", "--output", "back", "--format", "original", "--original", "../original", cwd=work)
    back = load_file(work / "back" / "model.safetensors")
    assert all(torch.equal(back[key], weight) for key, weight in weights.items()) and back.keys() == weights.keys()
    card = (work / "back" / "README.md").read_text()
    assert "The weights have the names of `../original`" in card and "AutoModel" not in card
