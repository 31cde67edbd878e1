"""The public model files, run as they are: loaded for what they are, with the logits that transformers 4 gave."""

import pytest
import torch
from real_models import BLOCK, real_models

from core.denoisers import CachedDenoiser
from core.denoisers.attention import block_causal
from trainers.models.families import FAMILIES
from trainers.models.loading import load_policy
from trainers.models.remote_code.modes import runs_as_in_eval
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

ROUNDING = 3e-5  # of logits of standard deviation 1.7, float32, by kernels of two versions
# whose forward is another function in train mode -> the classes that are run as in eval
OTHERWISE = {"sdar": {"SDARAttention", "SDARForCausalLM"}, "trado": {"SDARForCausalLM"}}
OTHERWISE["sdar_dare8b"] = OTHERWISE["sdar"]
NO_CPU = "flash_attn_with_kvcache"  # of the package that its forward calls


def remote(real, **more):
    arguments = ModelArguments(str(real.path), trust_remote_code=True, code="remote", **more)
    return load_policy(arguments, block_length=real.block_length)


def logits(policy, real):
    """Of every position that the policy predicts, (R, V), without the mask token's."""
    ids = real.reference()["ids"]
    rows = torch.ones_like(ids, dtype=torch.bool)
    rows[:, 0] = not policy.logit_shift
    rule = None if real.block_length is None else block_causal(torch.ones_like(ids[:, :0]), ids.size(1), BLOCK, True)
    with torch.no_grad():
        found = policy.denoiser().logits(ids, rule, rows)
    wanted = real.reference()["logits"][0]
    wanted = wanted[:-1] if policy.logit_shift else wanted
    kept = torch.arange(wanted.size(1)) != policy.mask_id
    return found[:, kept], wanted[:, kept]


@real_models("llada", "llada_fast", "llada_moe", "dream", "dream_dllm", "dream_fast", "dream_dare")
def test_a_bidirectional_file_gives_the_logits_of_transformers_4(real):
    _check(real)


@real_models("sdar", "sdar_dare8b", "sdar_moe", "trado", "llada2", "llada21", "llada2_dllm")
def test_a_block_causal_file_gives_the_logits_of_transformers_4_and_has_a_cache(real):
    policy = _check(real)
    assert isinstance(policy.denoiser(), CachedDenoiser) and policy.calling.stores is not None


@real_models("a2d_qwen2", "a2d_qwen3", "a2d_llama")
def test_a_file_on_transformers_own_layers_gives_the_logits_of_transformers_4(real):
    _check(real)


def _check(real):
    policy = remote(real)
    assert (policy.family, policy.mask_id) == (real.family, real.reference()["mask"])
    assert policy.logit_shift == FAMILIES[real.family].nature.logit_shift
    for training in (False, True):  # these files have no dropout that is on
        policy.model.train(training)
        found, wanted = logits(policy, real)
        spare = ~torch.isfinite(found[0])  # rows that the tokenizer has no token for may be forbidden
        assert spare.sum() <= embedding_spare(policy)
        assert float((found - wanted)[:, ~spare].abs().max()) < ROUNDING
    kinds = {type(module) for module in policy.model.modules()}
    resting = {kind.__name__ for kind in kinds if runs_as_in_eval(kind)}
    assert resting == OTHERWISE.get(real.name, set())
    return policy


def embedding_spare(policy):
    return policy.model.get_input_embeddings().weight.size(0) - len(policy.tokenizer)


@real_models("llada_dare")
def test_a_file_that_cannot_run_on_a_cpu_is_told_by_its_line(real):
    with pytest.raises(ConfigError, match=rf"modeling_llada\.py, line \d+: AttributeError: .*{NO_CPU}"):
        remote(real)
