"""Stand-ins whose code was changed, and a model whose logits are shifted."""

import pytest
from probing import Shifted
from transformers import AutoTokenizer

from trainers.models.policy import Policy
from trainers.models.tiny import TINY_ASSETS


@pytest.fixture
def edited(stand_in, tmp_path):
    """A stand-in's directory with something of its code exchanged."""

    def build(name, file, old, new):
        directory, _ = stand_in(name)
        for path in directory.iterdir():
            text = path.read_bytes()
            if path.name == file:
                assert old.encode() in text
                text = text.replace(old.encode(), new.encode())
            (tmp_path / path.name).write_bytes(text)
        return tmp_path

    return build


@pytest.fixture(scope="module")
def shifted():
    model, tokenizer = Shifted.from_pretrained(TINY_ASSETS), AutoTokenizer.from_pretrained(TINY_ASSETS)
    return Policy(model, tokenizer, logit_shift=True)
