"""Public chat templates and tokenizers: where a turn ends, and that what is saved has the files that came.

They are there where the environment variable REAL_MODELS says (`real_models`): models/NAME, a tokenizer with the
public special tokens, and src/, the published files, whose templates are read.
"""

import json
from types import SimpleNamespace

import pytest
from real_models import ROOT
from transformers import AutoTokenizer

from trainers.models.families import FAMILIES, Nature
from trainers.models.formats import settle_format
from trainers.saving.kept_files import TOKENIZER, keep_originals

QUESTION = "Ann has 8 books.\nAnswer:"
# tokenizer -> family, where its template is, what ends its turns, what a prompt begins with
PUBLISHED = {
    "llada": ("llada", "dare/models/LLaDA-8B-Instruct", "<|eot_id|>", "<|startoftext|><|start_header_id|>user"),
    "llada2": ("llada2", "dare/models/LLaDA2.0-mini", "<|role_end|>", "<role>SYSTEM</role>"),
    "llada21": ("llada2", "dare/models/LLaDA2.1-mini", "<|role_end|>", "<role>SYSTEM</role>"),
    "dream": ("dream", None, "<|im_end|>", "<|im_start|>system\n"),
    "sdar": ("sdar", None, "<|im_end|>", "<|im_start|>user\n"),
    "sdar_moe": ("sdar", None, "<|im_end|>", "<|im_start|>user\n"),
}


@pytest.fixture(params=PUBLISHED)
def published(request):
    """Its tokenizer, family, end of turns and first text."""
    family, source, end, first = PUBLISHED[request.param]
    directory = ROOT / "models" / request.param
    template = None if source is None else ROOT / "src" / source / "tokenizer_config.json"
    for path in (directory / "tokenizer_config.json", template):
        if path is not None and not path.is_file():
            pytest.skip("needs the public model files (REAL_MODELS)")
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    if template is not None:
        tokenizer.chat_template = json.loads(template.read_text(encoding="utf-8"))["chat_template"]
    return tokenizer, FAMILIES[family], end, first


def test_a_published_template_is_the_format_and_its_turn_ends_a_completion(published):
    tokenizer, family, end, first = published
    form = settle_format(tokenizer, Nature(), family, [tokenizer.eos_token_id], "auto", None, "published")
    assert form.chat and tokenizer.convert_ids_to_tokens(list(form.turn_ends)) == [end, tokenizer.eos_token]
    prompt, completion = form.join(tokenizer, QUESTION, "#### 8")
    text = tokenizer.decode(prompt)
    assert text.startswith(first) and text.count(first) == 1 and "Ann has 8 books." in text
    assert prompt == form.encode(tokenizer, [QUESTION])[0]
    if tokenizer.bos_token_id is not None:
        assert prompt.count(tokenizer.bos_token_id) == int(first.startswith(tokenizer.bos_token))
    assert completion[-1] == form.turn_ends[0] and completion.count(completion[-1]) == 1
    assert tokenizer.decode(completion, skip_special_tokens=True) == "#### 8"
    chat = [{"role": "system", "content": "Count."}, {"role": "user", "content": QUESTION}]
    told = settle_format(tokenizer, Nature(), family, [], "true", "Count.", "published")
    assert told.render(tokenizer, QUESTION) == form.render(tokenizer, chat) != form.render(tokenizer, QUESTION)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_saved_tokenizer_has_the_files_that_came(name, tmp_path):
    directory = ROOT / "models" / name
    if not (directory / "tokenizer_config.json").is_file():
        pytest.skip("needs the public model files (REAL_MODELS)")
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    if tokenizer.mask_token is None:  # LLaDA's
        tokenizer.add_special_tokens({"mask_token": "<|mdm_mask|>"})
    ids = tokenizer([QUESTION, f"{tokenizer.mask_token} 12{tokenizer.eos_token}"])["input_ids"]
    tokenizer.save_pretrained(tmp_path)
    config = SimpleNamespace(auto_map={"AutoModel": "modeling.Model"})
    model = SimpleNamespace(name_or_path=str(directory), config=config)
    keep_originals(tmp_path, SimpleNamespace(tokenizer=tokenizer, model=model))
    for file in TOKENIZER[1:]:
        assert (tmp_path / file).is_file() == (directory / file).is_file()
        assert not (directory / file).is_file() or (tmp_path / file).read_bytes() == (directory / file).read_bytes()
    before, after = (json.loads((path / TOKENIZER[0]).read_text()) for path in (directory, tmp_path))
    assert after == before | {"mask_token": tokenizer.mask_token}
    again = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(again).__name__ == type(tokenizer).__name__ and again.mask_token == tokenizer.mask_token
    assert again([QUESTION, f"{tokenizer.mask_token} 12{tokenizer.eos_token}"])["input_ids"] == ids
