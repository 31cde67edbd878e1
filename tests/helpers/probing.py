"""What tests of the probes share: a refusal, prompts of unequal length, and models that are not what they say."""

import pytest
from transformers import AutoTokenizer, LlamaForCausalLM

from trainers.models.policy import Policy
from trainers.models.probes.looking import Examiner
from trainers.models.probes.probing import probed
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError


def refused(policy: Policy, *parts: str) -> None:
    """The probes say all of this."""
    with pytest.raises(ConfigError) as error:
        probed(policy, Examiner("this one"))
    assert all(part in str(error.value) for part in ("'this one'", *parts)), str(error.value)


def prompts_of(policy, splits):
    """Token ids of the validation prompts, of unequal length."""
    prompts = policy.tokenizer(list(splits["validation"]["prompt"]))["input_ids"]
    assert len({len(prompt) for prompt in prompts}) > 2
    return prompts


class Shifted(LlamaForCausalLM):
    """Gives at each position the logits of the next one."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits.roll(-1, dims=1)
        return out


def changed(directory, tmp_path, mask_token="[MASK]", config_id=None, more=()):
    """The shipped model with another idea of its mask token."""
    model, tokenizer = LlamaForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"additional_special_tokens": list(more)})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.mask_token = mask_token
    if config_id is not None:
        model.config.mask_token_id = config_id
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return ModelArguments(model_name_or_path=str(tmp_path))
