"""Attention and padding are seen in any weights: who sees whom, and what padding changes."""

from dataclasses import replace

import pytest
import torch
from probing import prompts_of, refused
from transformers import GPT2Config, GPT2LMHeadModel
from watching import REUSED
from zoo.standins import STAND_INS, build, load

from core.denoisers import ModelDenoiser, UnpaddedDenoiser
from core.denoisers.attention import block_causal
from core.sampling import draw_keys
from trainers.models.loading import load_policy
from trainers.models.probes.looking import far_length, sequence
from trainers.rollouts import roll_out
from trainers.settings.model import ModelArguments
from trainers.settings.objects import build_generator, build_likelihood, build_masking
from trainers.settings.options import ConfigError

# ---- attention ---------------------------------------------------------------------------------------------------


def test_causal_attention_that_is_called_bidirectional_is_refused(make_policy):
    refused(make_policy(layers=2, causal=True), "model.attention=bidirectional, but", "its attention is causal")


def test_causal_attention_of_the_checkpoints_own_code_is_refused(edited):
    directory = edited("llada", "parts.py", "is_causal=False", "is_causal=mask is None")
    with pytest.raises(ConfigError, match="its attention is causal"):
        load("llada", directory)


@pytest.mark.parametrize("size", [32, 64, 150])
def test_blocks_that_a_short_text_fits_into_are_seen(tokenizer, tmp_path, size):
    """As of Fast-dLLM v2: counted from the start, whatever the model is told."""
    directory, _ = build("blockwise", tokenizer, tmp_path, bd_size=size)
    with pytest.raises(ConfigError, match=r"do not change the logits of the first ones, as they do of 12: .*blocks"):
        load("blockwise", directory)


def test_a_text_is_longer_than_the_blocks_of_the_config_and_no_longer_than_the_model(make_policy):
    policy = make_policy()
    assert far_length(policy) == 104
    policy.model.config.block_length = 50
    assert far_length(policy) == 150
    policy.model.config.max_position_embeddings = 40
    assert far_length(policy) == 40


def test_texts_of_other_numbers_are_others_everywhere(make_policy):
    policy = make_policy()
    for length in (1, 12, 104, 333):
        one, two, three = (sequence(policy, length, shift) for shift in range(3))
        assert not bool(((one == two) | (two == three) | (one == three)).any())


@pytest.mark.parametrize(
    "kernel, said",
    [
        ("attn_mask=None, dropout_p=dropout, is_causal=False", "tokens of a later block change"),
        ("attn_mask=None, dropout_p=dropout, is_causal=True", "tokens of a block do not change"),
    ],
    ids=["leaks", "causal"],
)
def test_a_block_causal_model_that_does_not_follow_its_rule_is_refused(edited, kernel, said):
    directory = edited("sdar", "parts.py", "attn_mask=mask, dropout_p=dropout, is_causal=False", kernel)
    with pytest.raises(ConfigError, match=f"model.attention=block_causal, but .*{said}"):
        load("sdar", directory)


def test_a_rule_that_holds_in_one_layer_and_not_in_the_next_is_refused(edited):
    directory = edited(
        "sdar",
        "modeling_sdar.py",
        "position_ids, frequency, mask,",
        "position_ids, frequency, None if number else mask,",
    )
    with pytest.raises(ConfigError, match="tokens of a later block change"):
        load("sdar", directory)


def test_a_model_that_takes_no_rule_is_refused_with_what_it_said(edited):
    directory = edited("llada2", "modeling_llada2_moe.py", "(rows, 1, length, stored + length)", "(0,)")
    with pytest.raises(ConfigError, match=r"no form of a rule is taken: .*expected attention_mask \(batch"):
        load("llada2", directory)


def test_the_length_of_a_block_must_be_said(stand_in):
    arguments = ModelArguments(model_name_or_path=str(stand_in("sdar")[0]), trust_remote_code=True)
    with pytest.raises(ConfigError, match=r"needs generation\.block_length.*this checkpoint's is 7"):
        load_policy(arguments)


# ---- padding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llada", "dream", "llada2", "llama", "bert", "modernbert"])
def test_padding_does_not_show_in_rollouts_and_losses(stand_in, grpo_args, splits, name):
    """Each prompt of a batch gets what it gets alone, whichever way its model has to be called."""
    kind, policy = STAND_INS[name], load(name, stand_in(name)[0])
    blocks = {} if kind.block_length is None else {"block_length": kind.block_length, "max_timesteps": 6}
    args = grpo_args(max_completion_length=14, **blocks)
    masking, likelihood = build_masking(args), build_likelihood(args, policy.block_length)
    masking.schedule = likelihood.schedule
    prompts = prompts_of(policy, splits)
    keys = draw_keys(len(prompts), torch.Generator().manual_seed(0))
    denoiser = policy.denoiser()
    sampler = build_generator(args, denoiser, masking.schedule, masking, policy.tokenizer.eos_token_id)
    pad = policy.tokenizer.pad_token_id
    with denoiser.evaluating():
        together, alone = (roll_out(sampler, prompts, keys, pad, size, torch.device("cpu")) for size in (8, 1))
        assert torch.equal(together.ids, alone.ids)
        longest = max(map(len, prompts))
        padded = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
        shape = (*together.ids.shape, longest)
        draws = likelihood.draw(masking, *shape, torch.Generator().manual_seed(1), trajectory=together)
        draws = replace(draws, prompt_hidden=torch.zeros_like(draws.prompt_hidden))
        whole = likelihood.score(denoiser, padded, mask, together.ids, draws).token_bound
        likelihood.states_per_forward = 3
        in_groups = likelihood.score(denoiser, padded, mask, together.ids, draws).token_bound
        assert torch.allclose(in_groups, whole, atol=1e-3, rtol=1e-4)
        for row, ids in enumerate(prompts):
            one = slice(row, row + 1)
            own = draws.rows(one)
            own = replace(own, prompt_hidden=own.prompt_hidden[..., -len(ids) :])
            found = likelihood.score(
                denoiser, padded[one, -len(ids) :], mask[one, -len(ids) :], together.ids[one], own
            )
            # float32 sums in another order; a token seen too many moves a log-probability by 0.1 and more
            assert torch.allclose(found.token_bound, whole[one], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mask_of_padding_that_is_half_obeyed_is_not_used(edited, dtype):
    """Padding is seen, a hundred times less than text: about as much as bfloat16 rounds, but not by rounding."""
    directory = edited("llada_moe", "modeling_llada_moe.py", "torch.finfo(hidden.dtype).min", "-5.0")
    assert load("llada_moe", directory, dtype=dtype).calling.padding == "pairwise"


def test_a_model_that_ignores_padding_is_run_without(stand_in):
    policy = load("llada", stand_in("llada")[0])
    assert isinstance(policy.denoiser(), UnpaddedDenoiser)
    assert isinstance(load("llama", stand_in("llama")[0]).denoiser(), ModelDenoiser)


def test_the_ratio_of_a_model_that_ignores_padding_is_1_before_its_update(stand_in, make_watching):
    """To rounding, where old log-probabilities are scored: the rows of a length come in other numbers then."""
    trainer = make_watching(policy=load("llada", stand_in("llada")[0]), beta=0.1, max_steps=4, **REUSED)
    trainer.train()
    assert any(len(set(batch["inputs"]["prompt_mask"].sum(dim=1).tolist())) > 1 for batch in trainer.micro_batches)
    drift = [float((batch["current"] - batch["old"]).abs().max()) for batch in trainer.micro_batches]
    kl = [float((batch["current"] - batch["ref"]).abs().max()) for batch in trainer.micro_batches]
    assert max(*drift[:2], *kl[:2]) < 1e-5 and min(*drift[2:4], *kl[2:4]) > 1e-2


def test_a_model_with_few_positions_is_not_shown_longer_texts(tokenizer, tmp_path):
    """GPT-2: absolute positions, so that it must be told them where there is padding."""
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=24, **ends)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    policy = load_policy(ModelArguments(model_name_or_path=str(tmp_path)))
    assert policy.family == "autoregressive" and policy.logit_shift
    assert policy.calling.padding == "mask" and policy.calling.counts_padding


def test_a_memory_budget_is_kept_without_padding_too(stand_in, make_grpo, capsys):
    policy = load("llada", stand_in("llada")[0])
    trainer = make_grpo(policy=policy, max_steps=1, memory_budget_gib=0.004)
    trainer.train()
    assert trainer.state.global_step == 1 and 1 <= trainer.likelihood.states_per_forward < 16
    assert "memory budget 0.004 GiB" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"memory_budget_gib=1e-06"):
        make_grpo(policy=policy, max_steps=1, memory_budget_gib=1e-6).train()


# ---- prompts in blocks -------------------------------------------------------------------------------------------


def test_a_prompt_in_blocks_is_read_so_wherever_a_forward_is_made(stand_in, grpo_args):
    """What a rollout recorded is what the loss says of it in one forward, and what the rule says of a state alone."""
    policy = load("sdar", stand_in("sdar")[0])
    args = grpo_args(max_completion_length=14, block_length=7, max_timesteps=6, nelbo_replay="all")
    masking, likelihood = build_masking(args), build_likelihood(args, policy.block_length)
    masking.schedule, denoiser = likelihood.schedule, policy.denoiser()
    prompts = torch.randint(5, 100, (2, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(prompts)
    mask[1, :3] = 0
    sampler = build_generator(args, denoiser, masking.schedule, masking, eos_id=None)
    with denoiser.evaluating():
        out = sampler.generate(prompts, mask, torch.Generator().manual_seed(1))
        draws = likelihood.draw(masking, 2, 14, 10, torch.Generator().manual_seed(2), trajectory=out)
        scored = likelihood.score(denoiser, prompts, mask, out.ids, draws)
        assert torch.allclose(scored.token_bound, -out.commit_logps, atol=1e-3)  # float32, other sums
        other = likelihood.score(replace(policy, prompt_in_blocks=False).denoiser(), prompts, mask, out.ids, draws)
        assert not torch.allclose(scored.token_bound, other.token_bound, atol=1e-1)
        step = int(out.step_map[0, 8])  # a state of the second block, by the rule itself
        state = torch.where(out.step_map >= step, policy.mask_id, out.ids)[:1]
        visible = block_causal(mask[:1], 14, 7, prompt_in_blocks=True)
        rows = torch.zeros(1, 24, dtype=torch.bool)
        rows[0, 10 + 8] = True
        logps = denoiser.logits(torch.cat([prompts[:1], state], dim=1), visible, rows).log_softmax(dim=1)
        assert torch.allclose(logps[0, out.ids[0, 8]], out.commit_logps[0, 8], atol=1e-3)
