"""What is saved of a checkpoint with code of its own has the files that it came with, and is read where it is read."""

import json

import pytest
from running import fork
from transformers import AutoTokenizer
from zoo import standins, tokenizers_of_4
from zoo.templates import templated

from trainers.models.adapters import lora_config
from trainers.models.loading import load_policy
from trainers.saving.kept_files import TOKENIZER
from trainers.settings.model import ModelArguments

TEXT = "Ann has 8 books.\nAnswer:"
WRITERS = {"llada": tokenizers_of_4.write_fast, "dream": tokenizers_of_4.write_own}


@pytest.fixture
def make_base(tokenizer, tmp_path):
    """Name -> the directory of a checkpoint as transformers 4 left it."""

    def build(name):
        standins.build(name, tokenizer, tmp_path / "base", template="brackets")
        own = templated(standins.build_tokenizer(standins.STAND_INS[name], tokenizer), "brackets")
        WRITERS[name](own, tmp_path / "base")
        (tmp_path / "base" / "generation_config.json").write_text('{"eos_token_id": 1, "steps": 512}')
        return tmp_path / "base"

    return build


@pytest.fixture(params=WRITERS)
def base(request, make_base):
    return request.param, make_base(request.param)


def assert_kept(base, saved, name):
    """The tokenizer's files to the byte, none beside them, the mask token's name apart."""
    there = {file for file in TOKENIZER if (saved / file).is_file()}
    assert there == {file for file in TOKENIZER if (base / file).is_file()}
    for file in there - {"tokenizer_config.json"}:
        assert (saved / file).read_bytes() == (base / file).read_bytes(), file
    before, after = (json.loads((folder / "tokenizer_config.json").read_text()) for folder in (base, saved))
    assert after == before | {"mask_token": standins.STAND_INS[name].mask}
    if "mask_token" in before:
        assert (base / "tokenizer_config.json").read_bytes() == (saved / "tokenizer_config.json").read_bytes()
    for file in base.glob("tokenization_*.py"):
        assert (saved / file.name).read_bytes() == file.read_bytes()


def assert_same_policy(one, other):
    prompts = [TEXT, [{"role": "system", "content": "Count."}, {"role": "user", "content": TEXT}]]
    assert one.encode(prompts) == other.encode(prompts)
    assert one.eos_ids == other.eos_ids and one.mask_id == other.mask_id and one.pad_id == other.pad_id
    completion = [*one.tokenizer("#### 8")["input_ids"], one.format.turn_ends[0]]
    assert (
        one.decode(completion, skip_special_tokens=True)
        == other.decode(completion, skip_special_tokens=True)
        == "#### 8"
    )


def test_an_export_has_the_files_that_its_base_came_with(base, tmp_path):
    name, directory = base
    fork("export.py", directory, "--output", tmp_path / "exported", "--trust_remote_code", cwd=tmp_path)
    exported = tmp_path / "exported"
    assert_kept(directory, exported, name)
    code = {file.name: file.read_bytes() for file in directory.glob("*.py")}
    assert code and {file.name: file.read_bytes() for file in exported.glob("*.py")} == code
    assert (exported / "generation_config.json").read_bytes() == (directory / "generation_config.json").read_bytes()
    plain = AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
    assert plain.mask_token == standins.STAND_INS[name].mask, "plain transformers knows what hides a token"
    first, again = (
        load_policy(ModelArguments(str(path), trust_remote_code=True, code="remote")) for path in (directory, exported)
    )
    assert_same_policy(first, again)


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_what_a_trainer_saves_has_them_too(base, make_sft, splits, tmp_path, adapter):
    name, directory = base
    arguments = ModelArguments(str(directory), trust_remote_code=True, code="remote", use_peft=adapter)
    policy = load_policy(arguments)
    lora = lora_config(arguments, policy.model)
    trainer = make_sft(policy=policy, train=splits["train"].select(range(8)), peft_config=lora)
    trainer.save_model(str(tmp_path / "saved"))
    assert_kept(directory, tmp_path / "saved", name)
    assert (tmp_path / "saved" / f"modeling_{name}.py").is_file() != adapter
    again = load_policy(ModelArguments(str(tmp_path / "saved"), trust_remote_code=True, code="remote"))
    assert_same_policy(policy, again)


def test_a_mask_token_that_the_user_chose_is_named_in_what_is_saved(make_base, tmp_path):
    told = ["--model.mask_token", "<|im_start|>", "--model.trust_remote_code", "true", "--model.probe", "false"]
    (tmp_path / "c.yaml").write_text("trainer: sft\n")
    named = ["--model.name_or_path", make_base("llada")]
    fork("export.py", "c.yaml", *named, *told, "--output", tmp_path / "exported", cwd=tmp_path)
    again = load_policy(ModelArguments(str(tmp_path / "exported"), trust_remote_code=True, code="remote", probe=False))
    assert again.tokenizer.mask_token == "<|im_start|>"


def test_a_checkpoint_of_transformers_own_is_saved_as_ever(tokenizer, tmp_path):
    standins.build("qwen2", tokenizer, tmp_path / "base")
    (tmp_path / "base" / "merges.txt").write_text("kept by whoever made it")
    arguments = tmp_path / "c.yaml"
    arguments.write_text("trainer: sft\n")
    told = ["--model.name_or_path", tmp_path / "base", "--model.mask_token", "<|fim_pad|>"]
    fork("export.py", arguments, *told, "--output", tmp_path / "exported", cwd=tmp_path)
    assert not (tmp_path / "exported" / "merges.txt").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").mask_token == "<|fim_pad|>"
