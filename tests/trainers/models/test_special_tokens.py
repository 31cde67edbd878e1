"""The token that hides others: it has no other use, a row in the embedding, and one name in tokenizer and config."""

from dataclasses import replace

import pytest
from probing import changed

from trainers.models.loading import load_policy
from trainers.models.tiny import TINY_ASSETS
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError


@pytest.mark.parametrize(
    "token, said",
    [
        ("a", "plain text contains it, so it cannot hide anything"),
        ("[EOS]", "it is the eos_token"),
        ("[PAD]", "it is the pad_token"),
        ("<nowhere>", "not a token of"),
    ],
)
def test_a_token_with_another_use_is_no_mask(token, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")) as error:
        load_policy(ModelArguments(mask_token=token))
    assert repr(token) in str(error.value)


def test_tokenizer_and_config_must_agree_on_the_mask(tmp_path):
    arguments = changed(TINY_ASSETS, tmp_path, config_id=1)
    with pytest.raises(
        ConfigError, match=r"its tokenizer calls '\[MASK\]' \(id 2\) the mask token, its config '\[EOS\]'"
    ):
        load_policy(arguments)
    assert load_policy(replace(arguments, mask_token="[MASK]")).mask_id == 2


def test_a_mask_id_outside_of_the_vocabulary_is_refused(tmp_path):
    arguments = changed(TINY_ASSETS, tmp_path, mask_token=None, config_id=5000)
    with pytest.raises(ConfigError, match="its mask token has the id 5000, but its tokenizer has"):
        load_policy(arguments)


def test_tokens_that_are_called_a_mask_come_first_in_the_hint(tmp_path):
    more = [*(f"<|spare_{number}|>" for number in range(30)), "|<MASK>|"]  # the name that Fast-dLLM v2 gives it
    arguments = changed(TINY_ASSETS, tmp_path, mask_token=None, more=more)
    with pytest.raises(ConfigError, match=r"set model\.mask_token to .*, of: \[MASK\], \|<MASK>\|, "):
        load_policy(arguments)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_an_autoregressive_model_has_to_be_given_a_mask(stand_in, name):
    arguments = ModelArguments(model_name_or_path=str(stand_in(name)[0]))
    with pytest.raises(ConfigError, match=r"set model\.mask_token to a special token .* of: .*<\|fim_pad\|>"):
        load_policy(arguments)
