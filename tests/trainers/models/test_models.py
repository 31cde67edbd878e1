"""A named model becomes a policy that reads both ways, spells any text and never predicts its mask; or one error."""

import json
import random
import shutil

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from core.denoisers import ModelDenoiser
from trainers.models.adapters import lora_config
from trainers.models.loading import load_policy
from trainers.models.policy import vocabulary_head
from trainers.models.tiny import TINY_ASSETS, build_tiny
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

TEXTS = [
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.\nAnswer:",
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72",
    "He pays $1,234.50 (25% off); isn't that ... a lot ?  Yes !",
    " two  spaces,\ttab\r\nand line ends \n\n",
    "naïve Ñandú — “quotes” ½ ≠ 0.5 漢字 \U0001f600 עברית \u200b\u0301",
    "#### -7\n####8 #### 9",
    "0123456789 007 3.14159",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_spells_any_text_and_reads_it_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_tokenizer_spells_random_unicode(tokenizer):
    noise = random.Random(0)
    for _ in range(200):
        text = "".join(chr(noise.choice((noise.randrange(32, 127), noise.randrange(0xA0, 0xD800)))) for _ in range(20))
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_digit_is_one_token_wherever_it_stands(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(list("0123456789"))
    assert len(set(ids)) == 10 and tokenizer.unk_token_id not in ids
    for text in ("{}", "a{}", " {}", "1{}2", "<<{}+", "#### {}\n"):
        for digit, token in enumerate(ids):
            assert tokenizer(text.format(digit))["input_ids"].count(token) == text.format(digit).count(str(digit))


def test_special_tokens_are_distinct_and_never_reach_a_text(tokenizer):
    special = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id]
    assert len(set(special)) == 3 and set(special) <= set(tokenizer.all_special_ids)
    assert tokenizer.decode(special, skip_special_tokens=True) == ""


def test_mask_is_never_predicted(make_policy):
    policy = make_policy()
    with torch.no_grad():
        policy.model.lm_head.weight[policy.mask_id] += 100
    ids = torch.full((2, 6), policy.mask_id)
    logits = policy.denoiser().logits(ids, None, torch.ones_like(ids, dtype=torch.bool))
    assert (logits[:, policy.mask_id] == float("-inf")).all()


@pytest.mark.parametrize("saved", [False, True])
def test_tiny_reads_both_ways(tokenizer, tmp_path, saved):
    model = build_tiny(tokenizer)
    if saved:
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        model = load_policy(ModelArguments(model_name_or_path=str(tmp_path))).model
    model.eval()
    ids = torch.randint(3, 200, (1, 9), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % 200
    with torch.no_grad():
        for mask in (None, torch.ones_like(ids), torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]])):
            first = 0 if mask is None or mask.all() else 2
            change = model(ids, attention_mask=mask).logits - model(other, attention_mask=mask).logits
            assert change[0, first].abs().max() > 1e-4, "the first position sees the last"


def test_padding_is_never_seen(make_policy):
    model = make_policy().model.eval()
    ids = torch.randint(3, 200, (1, 9), generator=torch.Generator().manual_seed(0))
    other, mask = ids.clone(), torch.ones_like(ids)
    other[0, 0], mask[0, 0] = 7, 0
    with torch.no_grad():
        assert torch.equal(
            model(ids, attention_mask=mask).logits[:, 1:], model(other, attention_mask=mask).logits[:, 1:]
        )


def bert():
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return BertForMaskedLM(config).eval()


@pytest.mark.parametrize("kind", ["llama", "lora", "bert"])
def test_head_on_chosen_rows_gives_the_logits_of_the_whole_forward(make_policy, kind):
    model = bert() if kind == "bert" else make_policy(layers=2).model.eval()
    if kind == "lora":
        model = get_peft_model(model, lora_config(ModelArguments(use_peft=True, lora_r=2)))
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 60, (3, 8), generator=noise)
    rows = torch.rand(3, 8, generator=noise) < 0.4
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    assert vocabulary_head(model) is not None
    with torch.no_grad():
        whole = ModelDenoiser(model, mask_id=2).logits(ids, mask, rows)
        hooked = ModelDenoiser(model, mask_id=2, head=vocabulary_head(model)).logits(ids, mask, rows)
        plain = model(input_ids=ids, attention_mask=mask).logits
    assert whole.shape == (int(rows.sum()), plain.size(-1)) and plain.shape[:2] == (3, 8), "no hook stays behind"
    assert torch.allclose(hooked, whole, atol=1e-5)


# --- loading ------------------------------------------------------------------------------------------------------


def test_loaded_policy_is_ready_to_denoise(model_dir):
    policy = load_policy(ModelArguments(model_name_or_path=str(model_dir)))
    assert policy.tokenizer.padding_side == "left"
    assert policy.mask_id == policy.tokenizer.mask_token_id
    assert policy.model.generation_config is not None
    assert policy.model.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), ("auto", torch.float32)])
def test_dtype_of_the_weights_is_the_one_asked_for(model_dir, dtype, expected):
    assert load_policy(ModelArguments(model_name_or_path=str(model_dir), dtype=dtype)).model.dtype == expected


def test_fresh_tiny_learns_its_tokenizer_from_the_corpus():
    policy = load_policy(ModelArguments(from_scratch=True), ["zyzzyva zyzzyva"] * 3)
    assert len(policy.tokenizer(" zyzzyva")["input_ids"]) == 1
    assert policy.model.config.vocab_size == len(policy.tokenizer)


def test_adapter_is_configured_only_when_asked_for():
    assert lora_config(ModelArguments()) is None
    adapter = lora_config(ModelArguments(use_peft=True, lora_r=3, lora_target_modules=["q_proj"]))
    assert (adapter.r, adapter.target_modules) == (3, {"q_proj"})


def refused(path, **arguments):
    with pytest.raises(ConfigError) as error:
        load_policy(ModelArguments(model_name_or_path=str(path), **arguments))
    message = str(error.value)
    assert "\n" not in message and f"model.name_or_path={str(path)!r}" in message
    return message


@pytest.fixture
def broken_dir(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "broken")


def test_missing_directory_is_one_line(tmp_path):
    assert "cannot be loaded" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_truncated_weights_are_one_line(broken_dir, keep):
    weights = broken_dir / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    assert "cannot be loaded" in refused(broken_dir)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_one_line(broken_dir, name):
    (broken_dir / name).unlink()
    assert "cannot be loaded" in refused(broken_dir)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_malformed_json_is_one_line(broken_dir, name):
    (broken_dir / name).write_text('{"model_type": ')
    assert "cannot be loaded" in refused(broken_dir)


@pytest.mark.parametrize("token", ["mask_token", "eos_token"])
def test_tokenizer_without_a_needed_token_is_one_line(broken_dir, tokenizer, token):
    names = {n: getattr(tokenizer, n) for n in ("mask_token", "eos_token", "pad_token") if n != token}
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **names)
    bare.save_pretrained(broken_dir)
    assert f"its tokenizer has no {token}" in refused(broken_dir)


def test_fresh_weights_exist_for_tiny_only(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.from_scratch=True: only for model\.name_or_path='tiny'"):
        load_policy(ModelArguments(model_name_or_path=str(tmp_path), from_scratch=True))


# --- the shipped warm start ---------------------------------------------------------------------------------------

shipped = pytest.mark.skipif(not TINY_ASSETS.is_dir(), reason="no warm start is shipped")


@shipped
def test_shipped_weights_load_and_are_small():
    policy = load_policy(ModelArguments())
    assert 1e5 < sum(p.numel() for p in policy.model.parameters()) < 2e6
    assert sum(path.stat().st_size for path in TINY_ASSETS.rglob("*") if path.is_file()) <= 8 * 2**20


@shipped
def test_shipped_weights_say_how_they_were_made_and_how_good_they_are():
    text = (TINY_ASSETS / "README.md").read_text().lower()
    for fact in ("scripts/train.py", "configs/sft_gsm8k.yaml", "seed", "accuracy"):
        assert fact in text, fact


@shipped
def test_shipped_tokenizer_has_single_digits_and_spells_any_text():
    tokenizer = AutoTokenizer.from_pretrained(TINY_ASSETS)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert len(tokenizer("2024")["input_ids"]) == 4


@shipped
def test_shipped_config_is_bidirectional():
    assert json.loads((TINY_ASSETS / "config.json").read_text())["is_causal"] is False
    assert AutoModelForCausalLM.from_pretrained(TINY_ASSETS).config.is_causal is False
