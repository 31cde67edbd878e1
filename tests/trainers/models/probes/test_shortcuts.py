"""A head on chosen positions and a cache are used where they give what a whole forward gives, and nowhere else."""

import pytest
import torch
from probing import prompts_of
from transformers import LlamaForCausalLM
from zoo.standins import load

from core.sampling import draw_keys
from trainers.models.probes.probing import probed
from trainers.rollouts import roll_out
from trainers.settings.objects import build_generator, build_masking

# ---- cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llada2", "sdar"])
def test_stored_blocks_give_the_rollouts_that_whole_forwards_give(stand_in, grpo_args, splits, name):
    policy = load(name, stand_in(name)[0])
    assert policy.calling.stores is not None
    prompts = prompts_of(policy, splits)
    keys, found = draw_keys(len(prompts), torch.Generator().manual_seed(0)), []
    for cache in ("exact", "off"):
        args = grpo_args(max_completion_length=21, block_length=7, max_timesteps=6, cache=cache)
        masking, denoiser = build_masking(args), policy.denoiser()
        sampler = build_generator(args, denoiser, masking.schedule, masking, policy.tokenizer.eos_token_id)
        with denoiser.evaluating():
            found.append(roll_out(sampler, prompts, keys, policy.tokenizer.pad_token_id, 8, torch.device("cpu")))
    assert torch.equal(found[0].ids, found[1].ids)
    assert torch.allclose(found[0].commit_logps, found[1].commit_logps, atol=1e-3)  # float32, other sums


@pytest.mark.parametrize("fault", ["keys, values", "past_key_values.update(keys, values, number) and (keys, values)"])
def test_a_cache_that_is_not_written_or_not_read_is_not_used(edited, grpo_args, fault):
    directory = edited("sdar", "modeling_sdar.py", "past_key_values.update(keys, values, number)", fault)
    policy = load("sdar", directory)
    assert policy.calling.stores is None
    args = grpo_args(max_completion_length=14, block_length=7, max_timesteps=6)
    masking = build_masking(args)
    sampler = build_generator(args, policy.denoiser(), masking.schedule, masking, policy.tokenizer.eos_token_id)
    out = roll_out(sampler, [[5, 6, 7], [8]], torch.tensor([1, 2]), 0, 2, torch.device("cpu"))
    assert len(out.completions()) == 2


# ---- head --------------------------------------------------------------------------------------------------------


class Capped(LlamaForCausalLM):
    """Its logits are squeezed after the head, as Gemma's are."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = 3 * (out.logits / 3).tanh()
        return out


def test_a_head_whose_output_is_moved_afterwards_is_not_run_on_chosen_positions(shifted):
    assert not probed(shifted, "shifted").calling.head


def test_a_head_whose_output_is_squeezed_afterwards_is_scored_through_it(make_policy):
    policy = make_policy(layers=2)
    policy.model.__class__ = Capped
    policy = probed(policy, "capped")
    ids = torch.randint(5, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    rows = torch.ones_like(ids, dtype=torch.bool)
    with policy.denoiser().evaluating():
        expected = policy.model(ids).logits.flatten(0, 1)
        expected[:, policy.mask_id] = float("-inf")
        logps, _ = policy.denoiser().token_logps(ids, None, rows, ids.flatten(), 1.0)
    expected = expected.log_softmax(dim=1).gather(1, ids.view(-1, 1)).squeeze(1)
    assert torch.allclose(logps, expected, atol=1e-5)
