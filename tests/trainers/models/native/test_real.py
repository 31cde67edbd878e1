"""The public model files' own logits, by transformers 4, from transformers' classes: no line of the files is run.

Some checkpoints are there only for these tests: scaled rotary positions, tied heads, grouped heads, a router's bias.
"""

import pytest
import torch
from peft import get_peft_model
from real_models import BLOCK, REAL_MODELS, ROOT, RealModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, PretrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from core.denoisers.attention import block_causal
from trainers.models.adapters import lora_config
from trainers.models.loading import load_policy
from trainers.models.native.known import NATIVES
from trainers.models.native.originals import original_record, save_original, save_original_adapter
from trainers.settings.model import ModelArguments

MORE = (
    RealModel("llada_gqa", "llada"),
    RealModel("llada_moe_dense", "llada_moe"),
    RealModel("llada_moe_linear", "llada_moe"),
    RealModel("llada2_bias", "llada2", BLOCK),
    RealModel("llada2_yarn", "llada2", BLOCK),
    RealModel("dream_linear", "dream"),
    RealModel("dream_yarn", "dream"),
    RealModel("dream_tied", "dream"),
    RealModel("sdar_linear", "sdar", BLOCK),
    RealModel("sdar_yarn", "sdar", BLOCK),
    RealModel("sdar_tied", "sdar", BLOCK),
    RealModel("sdar_moe_yarn", "sdar", BLOCK),
)
MAPPED = [*REAL_MODELS.values(), *MORE]
TEXTS = (
    "Tom has 12 apples, and buys 7 more!\n\n  Then?\t\r\n",
    "naïve café — “quoted” … 日本語 한국어 العربية 😀👩‍👩‍👧",
    "e\u0301 is é; \u212b is not Å",  # not composed
    "I'll you'RE it's 1234567 x=3.14e-5 <<12+7=19>>\n#### 19",
    " leading,  double   triple    spaces ",
    "def f(x):\n    return {'a': [x] * 2}\n",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "a<|mask|>b <|MASK|> c<|endoftext|><|beginoftext|> <tool_call>{}</tool_call><|fim_pad|>",
    "<|im_start|> <|im_end|>  x",
    "",
)

needed = pytest.mark.parametrize(
    "real",
    [
        pytest.param(
            real,
            id=real.name,
            marks=pytest.mark.skipif(
                not (real.path / "model.safetensors").is_file(), reason="needs the public model files (REAL_MODELS)"
            ),
        )
        for real in MAPPED
    ],
)


def read(real, **options):
    return load_policy(ModelArguments(str(real.path), **options), block_length=real.block_length)


def gap(policy, real):
    """Largest difference of any logit but the mask token's, from the reference."""
    ids, expected = real.reference()["ids"], real.reference()["logits"][0]
    first = int(policy.logit_shift)
    rows = torch.ones_like(ids, dtype=torch.bool)
    rows[:, :first] = False
    visible = (
        None if real.block_length is None else block_causal(torch.ones_like(ids[:, :0]), ids.size(1), BLOCK, True)
    )
    with torch.no_grad():
        found = policy.denoiser().logits(ids, visible, rows).float()
    expected = expected[: len(found)].clone()
    seen = torch.isfinite(found) & torch.isfinite(expected)
    assert int((~seen).sum(dim=1).max()) <= 1 + ids.size(1)  # the mask token, and what the tokenizer does not have
    return float((found - expected)[seen].abs().max())


@needed
def test_logits_are_those_of_the_public_file(real):
    policy = read(real, code="native")
    assert policy.family == real.family
    assert type(policy.model) in {record.model for record in NATIVES.values() if record.family == real.family}
    if (ROOT / "refs" / f"{real.name}.pt").is_file():
        assert policy.mask_id == real.reference()["mask"]
        assert gap(policy, real) < 2e-5


@needed
def test_bfloat16_is_float32_rounded(real):
    if not (ROOT / "refs" / f"{real.name}.pt").is_file():
        pytest.skip("its file gave no reference")
    policy = read(real, dtype="bfloat16", probe=False)
    # experts change with rounding, and logits with them
    assert policy.model.dtype == torch.bfloat16 and 1e-4 < gap(policy, real) < (8.0 if "moe" in real.name else 1.0)


@needed
def test_original_names_come_back_bit_for_bit(real, tmp_path):
    policy = read(real, probe=False)
    save_original(policy.model, original_record(policy), str(real.path), tmp_path)
    was, now = (load_file(path / "model.safetensors") for path in (real.path, tmp_path))
    assert was.keys() == now.keys() and all(torch.equal(was[key], now[key]) for key in was)


@needed
def test_tokens_are_those_of_the_file_s_own_tokenizer(real):
    policy = read(real, probe=False)
    own = AutoTokenizer.from_pretrained(real.path, trust_remote_code=True, config=PretrainedConfig())
    coded = "auto_map" in get_tokenizer_config(str(real.path))
    assert type(own).__module__.startswith("transformers_modules") == coded
    for text in TEXTS:
        ids = own(text)["input_ids"]
        assert policy.tokenizer(text)["input_ids"] == ids, text
        assert policy.tokenizer.decode(ids) == own.decode(ids), text
    for text, known in real.reference()["prompts"].items() if (ROOT / "refs" / f"{real.name}.pt").is_file() else ():
        assert policy.tokenizer(text)["input_ids"] == known["ids"][0].tolist()


@needed
def test_an_adapter_is_taken_by_the_public_file(real, tmp_path):
    """Names only: each is a module of the file, of the shape that its weights change."""
    policy = read(real, probe=False)
    told = ModelArguments(use_peft=True, lora_r=2, lora_target_modules=["o_proj"])
    adapted = get_peft_model(policy.model, lora_config(told, policy.model))
    save_original_adapter(adapted, original_record(policy), str(real.path), tmp_path)
    added, weights = load_file(tmp_path / "adapter_model.safetensors"), load_file(real.path / "model.safetensors")
    modules = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in added}
    assert len(modules) == 2
    for module in modules:
        a, b = (added[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
        assert (b.size(0), a.size(1)) == tuple(weights[f"{module}.weight"].shape)
