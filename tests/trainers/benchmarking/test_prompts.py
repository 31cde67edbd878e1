"""Prompts: random ones, and those of a file."""

import pytest
import torch

from trainers.benchmarking.prompts import random_prompts, read_problems, real_prompts
from trainers.settings.options import ConfigError


def test_random_prompts_hold_no_special_token(policy):
    ids = random_prompts(policy, 4, 2000, seed=0)
    assert not set(ids.flatten().tolist()) & set(policy.tokenizer.all_special_ids)
    assert torch.equal(ids, random_prompts(policy, 4, 2000, seed=0))


def test_real_prompts_are_padded_and_cut_on_the_left(tokenizer):
    texts = ["1", "1 2 3 4 5 6", "1 2 3"]
    full = [tokenizer(text)["input_ids"] for text in texts]
    pad = tokenizer.pad_token_id
    assert real_prompts(tokenizer, texts, 3, 4, "first").tolist() == [[pad] * 3 + full[0], full[1][-4:],
                                                                       ([pad] * 4 + full[2])[-4:]]  # fmt: skip
    assert real_prompts(tokenizer, texts, 1, len(full[2]), "closest").tolist() == [full[2]]
    with pytest.raises(ConfigError, match="expected at least 4 lines, got 3"):
        real_prompts(tokenizer, texts, 4, 4, "first")


@pytest.mark.parametrize("text", ["no json", '{"question": "a"}', "[1]", '{"question": 1, "answer": "b"}'])
def test_a_file_of_something_else_is_one_clear_error(text, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"--data: .*data\.jsonl, line 1: expected"):
        read_problems(path)
