"""Stored keys and values against forwards over the whole sequence, on a Llama of two layers.

Equalities hold to 1e-5: the same float32 sums in another order, on logits of size 10.
"""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from core.denoisers.attention import bidirectional, block_causal
from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.scoring import Draws, predict_states
from trainers.models.caching import RULES, CachedModelDenoiser
from trainers.models.loading import load_policy
from trainers.models.policy import Policy, vocabulary_head
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

PROMPT, CANVAS, BLOCK = 5, 6, 2
LENGTH = PROMPT + CANVAS
every_kernel = pytest.mark.parametrize("kernel", RULES)


@pytest.fixture
def make(make_policy):
    """A denoiser on a two-layer model; ``block_length`` makes it block-causal."""

    def build(kernel="sdpa", block_length=None, **kwargs):
        policy = make_policy(layers=2, attn_implementation=kernel, **kwargs)
        policy.model.eval()
        return Policy(policy.model, policy.tokenizer, block_length=block_length).denoiser()

    return build


@pytest.fixture
def sequences():
    """Two sequences, the second with two columns of padding, and their mask."""
    ids = torch.randint(4, 300, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return ids, mask


def places(columns, rows=2):
    return torch.arange(LENGTH)[columns].expand(rows, -1)


def nowhere(rows=2):
    return torch.zeros(rows, 0, dtype=torch.int64)


def everywhere(ids):
    return torch.arange(ids.size(1)).expand(len(ids), -1)


def run(denoiser, ids, visible, memory=None, columns=slice(None)):
    """The part ``columns`` of sequences as a span of which everything is predicted."""
    part = ids[:, columns]
    return denoiser.logits_with(part, places(columns, len(ids)), visible, memory, everywhere(part))


@every_kernel
@pytest.mark.parametrize("span", [(5, 7), (7, 9), (9, 11)])
@torch.no_grad()
def test_a_span_behind_the_memory_of_the_rest_equals_the_whole_forward(make, sequences, kernel, span):
    """In the middle (dual cache) and at the end (prefix cache)."""
    (ids, mask), denoiser, span = sequences, make(kernel), slice(*span)
    rows = torch.zeros_like(ids, dtype=torch.bool)
    rows[:, span] = True
    expected = denoiser.logits(ids, mask, rows)
    everything, stored = run(denoiser, ids, bidirectional(mask))
    assert torch.allclose(everything.unflatten(0, ids.shape)[:, span].flatten(0, 1), expected, atol=1e-5)

    rest = stored.select(slice(0, span.start)).cat(stored.select(slice(span.stop, None)))
    assert len(rest) == LENGTH - 2
    seen = torch.cat([mask[:, : span.start], mask[:, span.stop :], mask[:, span]], dim=1)
    visible = bidirectional(seen)[:, -2:]
    logits, written = run(denoiser, ids, visible, rest, span)
    assert torch.allclose(logits, expected, atol=1e-5)
    for ours, theirs in zip(written.keys + written.values, stored.keys + stored.values, strict=True):
        assert torch.allclose(ours, theirs[:, :, span], atol=1e-5)

    order = torch.arange(len(rest)).flip(0)
    visible = torch.cat([visible[:, :, order], visible[:, :, -2:]], dim=2)
    assert torch.allclose(run(denoiser, ids, visible, rest.select(order), span)[0], expected, atol=1e-5)


@torch.no_grad()
def test_nothing_said_means_that_everything_is_seen(make, sequences):
    (ids, _), denoiser = sequences, make()
    whole, stored = run(denoiser, ids, None)
    assert torch.allclose(whole, denoiser.logits(ids, None, torch.ones_like(ids, dtype=torch.bool)), atol=1e-5)
    logits, _ = run(denoiser, ids, None, stored.select(slice(0, 8)), slice(8, None))
    assert torch.allclose(logits, whole.unflatten(0, ids.shape)[:, 8:].flatten(0, 1), atol=1e-5)


@every_kernel
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@torch.no_grad()
def test_block_by_block_behind_the_prefix_equals_the_whole_block_causal_forward(make, sequences, kernel, causal):
    """Also on a model whose own attention is causal: the rule takes its place."""
    (ids, mask), denoiser = sequences, make(kernel, BLOCK, causal=causal)
    rule = block_causal(mask[:, :PROMPT], CANVAS, BLOCK)
    expected = denoiser.logits(ids, rule, torch.ones_like(ids, dtype=torch.bool)).unflatten(0, ids.shape)
    assert not bool(expected.isnan().any())  # at padding either

    prompt = slice(0, PROMPT)
    logits, memory = run(denoiser, ids, block_causal(mask[:, prompt], 0, BLOCK), columns=prompt)
    assert torch.allclose(logits, expected[:, prompt].flatten(0, 1), atol=1e-5)
    for start in range(PROMPT, LENGTH, BLOCK):
        block = slice(start, start + BLOCK)
        visible = block_causal(mask[:, :start], BLOCK, BLOCK)[:, -BLOCK:]
        logits, written = run(denoiser, ids, visible, memory, block)
        assert torch.allclose(logits, expected[:, block].flatten(0, 1), atol=1e-5)
        memory = memory.cat(written)


@torch.no_grad()
def test_two_blocks_in_one_span_equal_one_after_the_other(make, sequences):
    """The commit of a block fused with the first evaluation of the next."""
    (ids, mask), denoiser = sequences, make(block_length=BLOCK)
    prompt, first, second, both = slice(0, 5), slice(5, 7), slice(7, 9), slice(5, 9)
    _, memory = run(denoiser, ids, block_causal(mask[:, prompt], 0, BLOCK), columns=prompt)
    _, committed = run(denoiser, ids, block_causal(mask[:, :5], BLOCK, BLOCK)[:, -BLOCK:], memory, first)
    apart, _ = run(denoiser, ids, block_causal(mask[:, :7], BLOCK, BLOCK)[:, -BLOCK:], memory.cat(committed), second)
    fused, written = run(denoiser, ids, block_causal(mask[:, :5], 4, BLOCK)[:, -4:], memory, both)
    assert torch.allclose(fused.unflatten(0, (2, 4))[:, 2:].flatten(0, 1), apart, atol=1e-5)
    for ours, theirs in zip(written.select(slice(0, 2)).keys, committed.keys, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@torch.no_grad()
def test_a_stored_prompt_serves_its_group(make, sequences):
    (ids, mask), denoiser = sequences, make(block_length=BLOCK)
    group = torch.tensor([0, 0, 1, 1, 1])
    generator = torch.Generator().manual_seed(1)
    canvases = torch.cat([ids[group, :PROMPT], torch.randint(4, 300, (5, CANVAS), generator=generator)], dim=1)
    _, memory = run(denoiser, ids, block_causal(mask[:, :PROMPT], 0, BLOCK), columns=slice(0, PROMPT))
    visible = block_causal(mask[group, :PROMPT], CANVAS, BLOCK)[:, -CANVAS:]
    logits, _ = run(denoiser, canvases, visible, memory.rows(group), slice(PROMPT, None))
    rows = torch.zeros_like(canvases, dtype=torch.bool)
    rows[:, PROMPT:] = True
    expected = denoiser.logits(canvases, block_causal(mask[group, :PROMPT], CANVAS, BLOCK), rows)
    assert torch.allclose(logits, expected, atol=1e-5)


@torch.no_grad()
def test_a_span_without_questions_costs_no_row_of_the_head(make, sequences):
    (ids, mask), denoiser = sequences, make()
    denoiser.logits(ids, mask, mask.bool())  # it looks at a model once
    rows = []
    denoiser.head.register_forward_hook(lambda _, args, output: rows.append(output.size(0)))
    logits, memory = denoiser.logits_with(ids, places(slice(None)), bidirectional(mask), None, nowhere())
    assert rows == [0] and logits.size(0) == 0 and len(memory) == LENGTH
    assert denoiser.model.config.use_cache is False
    asked = torch.tensor([[3, 8], [2, 5]])
    logits, _ = denoiser.logits_with(ids, places(slice(None)), bidirectional(mask), None, asked)
    expected = denoiser.logits_at(ids, mask, asked)
    assert rows == [0, 4, 4] and torch.allclose(logits, expected, atol=1e-5)


@torch.no_grad()
def test_a_model_with_adapters_remembers_too(make, sequences):
    (ids, mask), denoiser = sequences, make()
    adapted = get_peft_model(denoiser.model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    denoiser = CachedModelDenoiser(adapted.eval(), denoiser.mask_id, head=vocabulary_head(adapted))
    with adapted.disable_adapter():
        whole, _ = run(denoiser, ids, bidirectional(mask))
    moved, stored = run(denoiser, ids, bidirectional(mask))
    assert not torch.allclose(moved, whole, atol=1e-2)
    visible = bidirectional(mask)[:, 8:]
    logits, _ = run(denoiser, ids, visible, stored.select(slice(0, 8)), slice(8, None))
    assert torch.allclose(logits, moved.unflatten(0, ids.shape)[:, 8:].flatten(0, 1), atol=1e-5)


def test_one_pass_scores_every_block_as_if_it_stood_alone(make, sequences):
    """[noisy | clean] in one forward against [prompt | clean past | noisy block], in values and in gradients."""
    (ids, mask), denoiser = sequences, make(block_length=BLOCK)
    prompt_ids, prompt_mask, canvas = ids[:, :PROMPT], mask[:, :PROMPT], ids[:, PROMPT:]
    hidden = torch.tensor([[[1, 0, 1, 1, 0, 1]], [[1, 1, 0, 0, 1, 1]]], dtype=torch.bool)
    no_prompt = torch.zeros(2, 1, PROMPT, dtype=torch.bool)
    draws = Draws(hidden, hidden, no_prompt, weight=torch.ones(2, 1), variance_factor=torch.ones(2))
    logits = predict_states(denoiser, prompt_ids, prompt_mask, canvas, draws, hidden)
    table = denoiser.embedding.weight
    (gradient,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), table)

    found = torch.zeros(2, CANVAS, logits.size(1)).masked_scatter(hidden[:, 0].unsqueeze(2), logits)
    total = torch.zeros_like(gradient)
    for start in range(0, CANVAS, BLOCK):
        stop = start + BLOCK
        noisy = canvas[:, :stop].clone()
        noisy[:, start:][hidden[:, 0, start:stop]] = denoiser.mask_id
        rows = torch.zeros(2, PROMPT + stop, dtype=torch.bool)
        rows[:, PROMPT + start :] = hidden[:, 0, start:stop]
        rule = block_causal(prompt_mask, stop, BLOCK)
        alone = denoiser.logits(torch.cat([prompt_ids, noisy], dim=1), rule, rows)
        assert torch.allclose(found[:, start:stop][hidden[:, 0, start:stop]], alone, atol=1e-5)
        total += torch.autograd.grad(alone.logsumexp(dim=1).sum(), table)[0]
    assert gradient.abs().max() > 0.1
    assert torch.allclose(gradient, total, atol=1e-5)


@torch.no_grad()
def test_replay_of_a_sampled_completion_gives_back_its_commits(make, sequences):
    """Sampler and loss, each in its own layout, say the same of every token: float32 log-probs of size 1 to 10."""
    (ids, mask), denoiser = sequences, make(block_length=BLOCK)
    prompt = ids[:, :PROMPT], mask[:, :PROMPT]
    masking = DiffusionMaskingStrategy(0.0, max_timesteps=6)
    loss = TrajectoryNELBOLoss(6, source="rollout", replay="all", causal_block_length=BLOCK)
    sampler = DiffusionGenerator(denoiser, loss.schedule, masking, CANVAS, BLOCK, sampler="ancestral")
    out = sampler.generate(*prompt, torch.Generator().manual_seed(0))
    draws = loss.draw(masking, 2, CANVAS, PROMPT, torch.Generator().manual_seed(0), trajectory=out)
    found = loss.score(denoiser, *prompt, out.ids, draws)
    assert draws.hidden.size(1) <= BLOCK < int(out.forwards.max())
    assert torch.allclose(found.per_token_logps, out.commit_logps, atol=1e-5)


def test_a_block_causal_model_must_be_told_who_sees_whom(make, sequences):
    (ids, mask), denoiser = sequences, make(block_length=BLOCK)
    with pytest.raises(ValueError, match=r"\(block_length=2\) needs to be told .* got \(2, 11\)"):
        denoiser.logits(ids, mask, mask.bool())
    with pytest.raises(ValueError, match="got None"):
        denoiser.logits_at(ids, None, nowhere())


def test_a_memory_is_read_as_files_of_transformers_4_read_a_cache(make, sequences):
    """By its usable length, and layer by layer."""
    (ids, _), denoiser, seen = sequences, make(), []
    own = denoiser.model.forward

    def forward(past_key_values=None, **kwargs):
        if past_key_values is not None:
            lengths = [past_key_values.get_usable_length(kwargs["input_ids"].size(1), layer) for layer in range(2)]
            seen.append((lengths, [past_key_values[layer] for layer in range(len(past_key_values))]))
        return own(past_key_values=past_key_values, **kwargs)

    denoiser.model.forward = forward
    with denoiser.evaluating():
        _, memory = run(denoiser, ids, None, columns=slice(PROMPT))
        run(denoiser, ids, None, memory, columns=slice(PROMPT, None))
    (first, nothing), (second, stored) = seen
    assert first == [0, 0] and nothing == [] and second == [PROMPT, PROMPT]
    assert [tuple(map(id, layer)) for layer in stored] == [
        (id(keys), id(values)) for keys, values in zip(memory.keys, memory.values, strict=True)
    ]


def test_what_cannot_be_cached_is_refused(make, sequences):
    (ids, mask), denoiser = sequences, make()
    denoiser.attention = "flash_attention_2"
    with pytest.raises(ValueError, match=r"attn_implementation='flash_attention_2' .* expected one of sdpa, eager"):
        run(denoiser, ids, bidirectional(mask))
    shifted = CachedModelDenoiser(denoiser.model, denoiser.mask_id, logit_shift=True)
    with pytest.raises(ValueError, match="shifted logits"):
        run(shifted, ids, None)
    with pytest.raises(ValueError, match="block_length=2: a block-causal model cannot have shifted logits"):
        CachedModelDenoiser(denoiser.model, denoiser.mask_id, logit_shift=True, block_length=2)


def test_a_policy_knows_its_blocks(model_dir):
    plain = ModelArguments(model_name_or_path=str(model_dir))
    causal = ModelArguments(model_name_or_path=str(model_dir), attention="block_causal")
    assert load_policy(causal, block_length=7).denoiser().block_length == 7
    assert load_policy(plain, block_length=7).denoiser().block_length is None
    with pytest.raises(ConfigError, match=r"model\.attention='block_causal': needs generation\.block_length"):
        load_policy(causal)


def block_causal_policy(make_policy, block_length):
    plain = make_policy()
    return Policy(plain.model, plain.tokenizer, block_length=block_length)


def test_sft_of_a_block_causal_model_lowers_its_bound(make_policy, make_sft):
    trainer = make_sft(policy=block_causal_policy(make_policy, 5), max_steps=10)
    trainer.train()
    bounds = [entry["nelbo"] for entry in trainer.state.log_history if "nelbo" in entry]
    assert len(bounds) == 10 and sum(bounds[-3:]) < 0.8 * sum(bounds[:3])


def test_grpo_replays_the_blocks_of_a_block_causal_model_side_by_side(make_policy, make_grpo):
    assert make_grpo(policy=block_causal_policy(make_policy, 7)).likelihood.causal_block_length == 7
    assert make_grpo().likelihood.causal_block_length is None
    make_grpo(policy=block_causal_policy(make_policy, 7), likelihood="one_step")  # which has no blocks
