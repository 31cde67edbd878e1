"""Checkpoints under their originals' names are read into transformers' classes: the same logits as the forward of
`originals`, which is written out, and one clear error for what the class cannot do or the record does not know."""

import json
import re

import originals
import pytest
import torch
from originals import ORIGINALS
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PretrainedConfig, Qwen2Tokenizer

from trainers.models.loading import load_policy
from trainers.models.native.known import NATIVES
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="session")
def original(tokenizer, tmp_path_factory):
    """name -> (directory, weights under their original names)."""
    known = {}

    def built(name):
        if name not in known:
            directory = tmp_path_factory.mktemp(name)
            known[name] = directory, originals.write(name, tokenizer, directory)
        return known[name]

    return built


def read(name, directory, **options):
    return load_policy(ModelArguments(str(directory), **options), block_length=ORIGINALS[name].block_length)


def some_ids(rows):
    return torch.randint(0, rows, (20,), generator=torch.Generator().manual_seed(0))


def blocks(length, size=4):
    at = torch.arange(length) // size
    return at[None] <= at[:, None]


def test_every_record_is_read_here():
    assert {kind.architecture for kind in ORIGINALS.values()} == set(NATIVES)


@pytest.mark.parametrize("name", ORIGINALS)
def test_logits_are_those_of_the_original_and_no_code_of_it_is_run(original, name):
    directory, weights = original(name)
    policy = read(name, directory)
    ids = some_ids(policy.model.get_input_embeddings().weight.size(0))
    for visible in [blocks(20)] if ORIGINALS[name].block_length else [None, blocks(20, 7)]:
        expected = originals.logits(name, weights, ids, visible)
        with torch.no_grad():
            found = policy.model(ids[None], attention_mask=None if visible is None else visible[None, None]).logits[0]
        torch.testing.assert_close(found, expected, **CLOSE)
    assert type(policy.model) is NATIVES[ORIGINALS[name].architecture].model
    assert type(policy.model).__module__.startswith("transformers.models.")
    assert policy.calling.padding == "mask" and policy.calling.head and policy.calling.stores == "use_cache"


@pytest.mark.parametrize("name", ORIGINALS)
def test_what_is_saved_is_plain_transformers_and_read_as_it_was(original, name, tmp_path):
    policy = read(name, original(name)[0])
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [NATIVES[ORIGINALS[name].architecture].model.__name__]
    assert "auto_map" not in config and "auto_map" not in (tmp_path / "tokenizer_config.json").read_text()
    again = read(name, tmp_path)
    assert (again.family, again.logit_shift, again.block_length) == (
        policy.family,
        policy.logit_shift,
        policy.block_length,
    )
    assert again.family == NATIVES[ORIGINALS[name].architecture].family
    plain, found = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(
        torch.equal(one, other)
        for one, other in zip(plain.state_dict().values(), policy.model.state_dict().values(), strict=True)
    )
    text = "Tom has 12 apples."
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == policy.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("name", ["llada", "llada2", "sdar_moe"])
def test_shards_and_dtypes_are_read_as_ever(original, name, tmp_path):
    directory, weights = original(name)
    for file in directory.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    half, where = sorted(weights)[: len(weights) // 2], {}
    for number in (0, 1):
        file = f"model-{number}.safetensors"
        part = {key: weight for key, weight in weights.items() if (key in half) == (number == 0)}
        save_file(part, tmp_path / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    whole, sharded = read(name, directory, dtype="bfloat16"), read(name, tmp_path, dtype="auto")
    assert whole.model.dtype == sharded.model.dtype == torch.bfloat16  # which the original's config says
    for one, other in zip(whole.model.parameters(), sharded.model.parameters(), strict=True):
        assert torch.equal(one, other)
    table = next(weight for key, weight in weights.items() if re.search("wte|embed", key))
    assert torch.equal(sharded.model.get_input_embeddings().weight, table.bfloat16())


# ---- what is refused ---------------------------------------------------------------------------------------------


def refused(name, directory, **options):
    with pytest.raises(ConfigError) as caught:
        read(name, directory, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "change, seen",
    [
        (lambda w: w | {"model.transformer.blocks.0.q_proj.bias": torch.zeros(32)}, "layers.0.self_attn.q_proj.bias"),
        (lambda w: w | {"model.transformer.emb_norm.weight": torch.ones(32)}, "model.transformer.emb_norm.weight"),
        (lambda w: {k: v for k, v in w.items() if "1.attn_out" not in k}, "model.layers.1.self_attn.o_proj.weight"),
        (lambda w: w | {"model.transformer.ln_f.weight": torch.ones(31)}, "another shape than .*: model.norm.weight"),
    ],
    ids=["a bias", "a module", "one missing", "another shape"],
)
def test_a_weight_that_is_not_known_or_missing_is_named(original, tmp_path, change, seen):
    directory, weights = original("llada")
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(change(weights), tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert re.search(f"model.code=auto: it (has|lacks) a weight.*{seen}$", refused("llada", tmp_path))


@pytest.mark.parametrize(
    "name, entries, seen",
    [
        ("llada", {"alibi": True}, "alibi=True, expected False"),
        ("llada", {"include_qkv_bias": True}, "include_qkv_bias=True, expected None or False"),
        ("llada", {"activation_type": "swiglu"}, "activation_type='swiglu', expected 'silu'"),
        ("llada", {"block_type": "sequential"}, "block_type='sequential', expected 'llama'"),
        ("llada", {"layer_norm_type": "default"}, "layer_norm_type='default', expected 'rms'"),
        ("llada", {"input_emb_norm": True}, "input_emb_norm=True"),
        ("llada", {"scale_logits": True}, "scale_logits=True"),
        ("llada", {"multi_query_attention": True}, "multi_query_attention=True"),
        ("llada", {"residual_dropout": 0.1}, "residual_dropout=0.1, expected 0"),
        ("llada", {"clip_qkv": 8.0}, "clip_qkv=8.0, expected None"),
        ("llada", {"rope_theta": None}, "rope_theta=None, expected a value"),
        ("llada", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling=.* not known of llada"),
        ("dream", {"use_sliding_window": True}, "use_sliding_window=True, expected False"),
        ("sdar", {"a_new_thing": 3}, "a_new_thing=3, which is not known of sdar"),
        ("llada_moe", {"clip_qkv": 8.0}, "clip_qkv=8.0, expected None"),
        ("llada_moe", {"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size=8"),
        ("llada2", {"score_function": "softmax"}, "score_function='softmax', expected 'sigmoid'"),
        ("llada2", {"use_qkv_bias": True}, "use_qkv_bias=True, expected False"),
        ("llada2", {"num_shared_experts": None}, "num_shared_experts=None, expected a value"),
    ],
)
def test_what_the_class_cannot_do_is_named(tokenizer, tmp_path, name, entries, seen):
    originals.write(name, tokenizer, tmp_path, **entries)
    assert re.search(f"model.code=native: its config has {seen}", refused(name, tmp_path, code="native"))


@pytest.mark.parametrize("missing", ["rope", "d_model", "block_type"])
def test_an_entry_that_must_be_there_is_named(tokenizer, tmp_path, missing):
    originals.write("llada", tokenizer, tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    del entries[missing]
    (tmp_path / "config.json").write_text(json.dumps(entries))
    assert refused("llada", tmp_path).endswith(f"its config has no entry {missing!r}")


def test_tokenizer_code_that_no_class_replaces_is_named(tokenizer, tmp_path):
    originals.write("llada", tokenizer, tmp_path)
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    said |= {"auto_map": {"AutoTokenizer": ["absent.Slow", None]}, "tokenizer_class": "Slow"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert refused("llada", tmp_path).endswith("its tokenizer Slow is in code of its own")


# ---- whose code --------------------------------------------------------------------------------------------------


def test_auto_takes_the_code_where_the_class_cannot_and_says_why(stand_in):
    """The zoo's LLaDA is a smaller one than the real, and its config says so."""
    directory, _ = stand_in("llada")
    with pytest.warns(UserWarning, match="by its own code, not natively: its config has no entry"):
        policy = load_policy(ModelArguments(str(directory), trust_remote_code=True))
    assert type(policy.model).__name__ == "LLaDAModelLM"
    with pytest.raises(ConfigError, match=r"model\.code=auto: its config has no entry"):
        load_policy(ModelArguments(str(directory)))


def test_native_is_refused_for_code_without_a_record(stand_in, tmp_path):
    directory, _ = stand_in("llada")
    entries = json.loads((directory / "config.json").read_text()) | {"architectures": ["OtherForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    message = "model.code='native': the architecture OtherForCausalLM is not read natively, which LLaDAModelLM, "
    with pytest.raises(ConfigError, match=message):
        load_policy(ModelArguments(str(tmp_path), code="native"))


def test_a_class_of_transformers_is_native_and_has_no_remote_code(model_dir):
    assert type(load_policy(ModelArguments(str(model_dir), code="native")).model) is LlamaForCausalLM
    with pytest.raises(ConfigError, match=r"model\.code='remote': .* brings no code along; expected auto or native"):
        load_policy(ModelArguments(str(model_dir), code="remote", trust_remote_code=True))


def test_remote_needs_trust():
    with pytest.raises(
        ConfigError, match=r"model\.code='remote': expected auto or native, or model\.trust_remote_code"
    ):
        ModelArguments(code="remote")


def test_nothing_of_the_reading_class_is_left(original):
    """Loading other Llamas and GLMs is as it was: the names of an original belong to a class of its own."""
    directory, weights = original("llada2")
    model = read("llada2", directory).model
    own = type(model)(model.config)
    own.load_state_dict(model.state_dict())
    assert not hasattr(model, "_weight_conversions") and "query_key_value" not in " ".join(model.state_dict())
    assert load_file(directory / "model.safetensors").keys() == weights.keys()


def test_a_slow_tokenizer_of_qwen_s_kind_is_read_without_its_code(tokenizer, tmp_path):
    """As Dream's and SDAR's: vocabulary and merges, and a class that is beside them."""
    originals.write("dream", tokenizer, tmp_path)
    made = AutoTokenizer.from_pretrained(tmp_path, config=PretrainedConfig())
    (tmp_path / "tokenizer.json").unlink()
    made.backend_tokenizer.model.save(str(tmp_path))
    special = {made.mask_token_id: made.mask_token, made.eos_token_id: "[EOS]", made.pad_token_id: "[PAD]"}
    added = {str(token): {"content": text, "special": True} for token, text in special.items()}
    said = {"auto_map": {"AutoTokenizer": ["absent.DreamTokenizer", None]}, "tokenizer_class": "DreamTokenizer"}
    said |= {"added_tokens_decoder": added, "mask_token": "<|mask|>", "eos_token": "[EOS]", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    policy = read("dream", tmp_path)
    assert type(policy.tokenizer) is Qwen2Tokenizer and policy.mask_id == made.mask_token_id
    text = "Tom has 12 apples.<|mask|> é"
    ids = policy.tokenizer(text)["input_ids"]
    assert policy.tokenizer.decode(ids) == text and ids.count(policy.mask_id) == 1
    policy.tokenizer.save_pretrained(tmp_path / "saved")
    assert "absent" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(text)["input_ids"] == ids
