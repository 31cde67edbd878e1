"""A model whose logits are shifted."""

import pytest
from probing import Shifted
from transformers import AutoTokenizer

from trainers.models.policy import Policy
from trainers.models.tiny import TINY_ASSETS


@pytest.fixture(scope="module")
def shifted():
    model, tokenizer = Shifted.from_pretrained(TINY_ASSETS), AutoTokenizer.from_pretrained(TINY_ASSETS)
    return Policy(model, tokenizer, logit_shift=True)
