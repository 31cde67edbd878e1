"""What a model claims is seen by running it: planted faults are found, and nothing else is."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM
from watching import REUSED
from zoo.standins import STAND_INS, load

from core.denoisers.attention import block_causal
from core.denoisers.denoiser import ModelDenoiser
from core.denoisers.unpadded import UnpaddedDenoiser
from core.sampling.noise import draw_keys
from trainers.models.loading import load_policy
from trainers.models.policy import Calling, Policy
from trainers.models.probes import probed
from trainers.models.tiny import TINY_ASSETS
from trainers.rollouts import roll_out
from trainers.settings.model import ModelArguments
from trainers.settings.objects import build_generator, build_likelihood, build_masking
from trainers.settings.options import ConfigError

SEEDS = 20
SHIFTED, MASKED = "model.logit_shift=true, but", "model.logit_shift=false, but"
# what is found out about each kind of stand-in
CALLINGS = {
    "llada": Calling(padding="none"),
    "llada_configured": Calling(padding="none"),
    "llada_moe": Calling(attention="sdpa", stores=None),
    "llada2": Calling(padding="pairwise", attention="sdpa"),
    "llada2_tied": Calling(padding="pairwise", attention="sdpa"),
    "dream": Calling(padding="pairwise", attention="sdpa"),
    "sdar": Calling(attention="sdpa", stores="store_kv"),
    "bert": Calling(attention="sdpa", counts_padding=True),
    "modernbert": Calling(attention="sdpa", stores=None),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), Calling(attention="sdpa")),
}


def refused(policy: Policy, *parts: str) -> None:
    """The probes say all of this."""
    with pytest.raises(ConfigError) as error:
        probed(policy, "this one")
    assert all(part in str(error.value) for part in ("'this one'", *parts)), str(error.value)


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


# ---- no false alarms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAND_INS)
def test_random_weights_are_found_to_be_what_they_are_whatever_the_seed_and_the_dtype(stand_in, name):
    policy = load(name, stand_in(name)[0])
    claimed = replace(policy, calling=Calling())
    assert policy.calling == CALLINGS[name]
    for seed in range(SEEDS):
        noise = torch.Generator().manual_seed(seed)
        policy.model.to(torch.bfloat16 if seed % 2 else torch.float32)
        with torch.no_grad():
            for weight in policy.model.parameters():
                if weight.ndim > 1:
                    weight.copy_(0.02 * (1 + seed) * torch.randn(weight.shape, generator=noise))
        assert probed(claimed, name).calling == policy.calling, seed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trained_weights_are_what_they_are(dtype):
    policy = load_policy(ModelArguments(dtype=dtype))
    assert (policy.logit_shift, policy.block_length, policy.calling) == (False, None, Calling(attention="sdpa"))


def test_dropout_is_off_for_the_look_and_randomness_and_mode_are_left_alone(make_policy):
    policy = make_policy(layers=2, attention_dropout=0.5)
    policy.model.train()
    before = torch.get_rng_state()
    assert probed(policy, "dropout").calling == CALLINGS["llama"]
    assert policy.model.training and torch.equal(torch.get_rng_state(), before)


# ---- shift -------------------------------------------------------------------------------------------------------


class Shifted(LlamaForCausalLM):
    """Gives at each position the logits of the next one."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits.roll(-1, dims=1)
        return out


@pytest.fixture(scope="module")
def shifted():
    model, tokenizer = Shifted.from_pretrained(TINY_ASSETS), AutoTokenizer.from_pretrained(TINY_ASSETS)
    return Policy(model, tokenizer, logit_shift=True)


def test_a_masked_model_that_is_called_shifted_is_refused():
    with pytest.raises(ConfigError, match=f"{SHIFTED}.*set model.logit_shift=false"):
        load_policy(ModelArguments(logit_shift=True))
    load_policy(ModelArguments(logit_shift=True, probe=False))


def test_a_shifted_model_that_is_called_masked_is_refused(shifted):
    assert probed(shifted, "shifted").logit_shift
    refused(replace(shifted, logit_shift=False), MASKED, "set model.logit_shift=true")


# ---- attention ---------------------------------------------------------------------------------------------------


def test_causal_attention_that_is_called_bidirectional_is_refused(make_policy):
    refused(make_policy(layers=2, causal=True), "model.attention=bidirectional, but", "its attention is causal")


def test_causal_attention_of_the_checkpoints_own_code_is_refused(edited):
    directory = edited("llada", "parts.py", "is_causal=False", "is_causal=mask is None")
    with pytest.raises(ConfigError, match="its attention is causal"):
        load("llada", directory)


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
    with pytest.raises(ConfigError, match=r"no form of a rule is taken: ValueError: expected attention_mask \(batch"):
        load("llada2", directory)


def test_the_length_of_a_block_must_be_said(stand_in):
    arguments = ModelArguments(model_name_or_path=str(stand_in("sdar")[0]), trust_remote_code=True)
    with pytest.raises(ConfigError, match=r"needs generation\.block_length.*this checkpoint's is 7"):
        load_policy(arguments)


# ---- padding -----------------------------------------------------------------------------------------------------


def prompts_of(policy, splits):
    """Of unequal length."""
    prompts = policy.tokenizer(list(splits["validation"]["prompt"]))["input_ids"]
    assert len({len(prompt) for prompt in prompts}) > 2
    return prompts


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


# ---- cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llada2", "sdar"])
def test_stored_blocks_give_the_rollouts_that_whole_forwards_give(stand_in, grpo_args, splits, name):
    policy = load(name, stand_in(name)[0])
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


# ---- mask token --------------------------------------------------------------------------------------------------


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


def test_a_mask_token_that_the_model_does_not_know_is_refused(tmp_path):
    arguments = changed(TINY_ASSETS, tmp_path, mask_token="<other>", more=("<other>",))
    with pytest.raises(ConfigError, match=r"mask token '<other>'.*predicted better behind '\[MASK\]'"):
        load_policy(arguments)


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


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_an_autoregressive_model_has_to_be_given_a_mask(stand_in, name):
    arguments = ModelArguments(model_name_or_path=str(stand_in(name)[0]))
    with pytest.raises(ConfigError, match=r"set model\.mask_token to a special token .* of: .*<\|fim_pad\|>"):
        load_policy(arguments)


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
