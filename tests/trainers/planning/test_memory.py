"""Planned bytes against what torch allocates, and what is sent against the published volumes."""

from dataclasses import replace

import pytest
import torch
from peft import get_peft_model

from core.masking_strategy import sync_masking_with_nelbo
from trainers.benchmarking.losses import Text, draw_share
from trainers.benchmarking.memory import peak_memory
from trainers.benchmarking.prompts import random_prompts
from trainers.benchmarking.shapes import SHAPES, Shape, random_policy
from trainers.benchmarking.steps import FULL, LORA
from trainers.models.adapters import lora_config
from trainers.models.families import Nature
from trainers.planning.memory import (
    DDP,
    FSDP2,
    ONE,
    STRATEGIES,
    ZERO2,
    ZERO3,
    Setup,
    Transient,
    memory_of,
    transient_of,
)
from trainers.planning.models import Model, find_model
from trainers.planning.network import Passes, bytes_sent
from trainers.planning.work import Lengths, count_work
from trainers.settings.model import ModelArguments
from trainers.settings.objects import build_generator, build_likelihood, build_loss, build_masking

SMALL = Shape(128, 384, 4, 4, 4, 512)
MODEL = Model("", None, weights=1000, adapter=10, nature=Nature(), largest=100)
NOTHING = Transient(0, 0, 0)
PROMPT, CANVAS, ROWS = 50, 64, 8


def setup(trained=FULL, itemsize=4, mixed=False, checkpointed=False, reference=False):
    return Setup(trained, itemsize, mixed, checkpointed, reference)


def size(tensors):
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [FULL, LORA])
def test_weights_gradients_and_moments_are_exact(trained, dtype):
    policy = random_policy(SMALL, dtype=dtype)
    arguments = ModelArguments(use_peft=trained == LORA)
    model = policy.model if trained == FULL else get_peft_model(policy.model, lora_config(arguments, policy.model))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights)
    ids = torch.arange(10).unsqueeze(0)
    model(input_ids=ids).logits.float().sum().backward()
    optimiser.step()
    steps = 4 * len(weights)  # AdamW also counts steps, once a tensor
    moments = size(value for state in optimiser.state.values() for value in state.values()) - steps
    whole = sum(weight.numel() for weight in policy.model.parameters() if not hasattr(weight, "lora"))
    adapter = sum(weight.numel() for weight in weights) if trained == LORA else 0
    sizes = Model("", policy.model.config, whole - adapter, adapter, Nature(), 0)
    planned = memory_of(sizes, setup(trained, dtype.itemsize), NOTHING, ONE, 1)
    found = size(model.parameters()), size(weight.grad for weight in weights), moments
    assert (planned.weights, planned.gradients, planned.optimiser) == found
    assert planned.peak == sum(found)


def loss_memory(args, trained, itemsize, mixed):
    """Bytes that a scoring and its backward allocate on a CPU, gradients included, and the plan's."""
    policy = random_policy(SMALL, dtype={2: torch.bfloat16, 4: torch.float32}[itemsize])
    config, whole = policy.model.config, sum(weight.numel() for weight in policy.model.parameters())
    if trained == LORA:
        adapter = lora_config(ModelArguments(use_peft=True), policy.model)
        policy = replace(policy, model=get_peft_model(policy.model, adapter))
    policy.model.train()
    if args.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    likelihood, ids = build_likelihood(args), random_prompts(policy, ROWS, PROMPT + args.max_completion_length, seed=0)
    text = Text(ids[:, :PROMPT], ids[:, PROMPT:])
    draws = draw_share(text, 2, 0.5, seed=0)  # as many positions as two segments score

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            found = likelihood.score(policy.denoiser(), text.prompt_ids, text.prompt_mask, text.ids, draws)
        found.sequence_bound.sum().backward()

    step()  # looks at the model, once
    policy.model.zero_grad(set_to_none=True)
    measured = peak_memory(step)
    own = setup(trained, itemsize, mixed, bool(args.gradient_checkpointing))
    more = sum(weight.numel() for weight in policy.model.parameters()) - whole
    model = Model("", config, whole, more, Nature(), 0)
    work = count_work(args, Lengths(PROMPT, PROMPT, args.max_completion_length), None, None)
    planned = memory_of(model, own, transient_of(model, own, work, 1.0), ONE, 1)
    return measured, planned.training + planned.gradients


@pytest.mark.parametrize(("itemsize", "mixed"), [(4, False), (2, False), (4, True)])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("trained", [FULL, LORA])
def test_activations_are_within_a_fifth(trained, checkpointed, itemsize, mixed, grpo_args):
    args = grpo_args(max_completion_length=128, max_timesteps=64, nelbo_replay="segments")
    args.gradient_checkpointing = checkpointed
    measured, planned = loss_memory(args, trained, itemsize, mixed)
    assert planned == pytest.approx(measured, rel=0.2)


def test_a_rollout_with_a_large_vocabulary(grpo_args):
    policy = random_policy(replace(SHAPES["tiny"], vocab_size=20_000, num_hidden_layers=1))
    args = grpo_args(max_completion_length=32, max_timesteps=16)
    masking = build_masking(args)
    schedule = sync_masking_with_nelbo(masking, build_loss(args))
    sampler = build_generator(args, policy.denoiser(), schedule, masking, eos_id=None)
    prompts = random_prompts(policy, ROWS, PROMPT, seed=0)[:2].repeat_interleave(4, dim=0)

    def roll_out():
        sampler.generate(prompts, torch.ones_like(prompts), torch.Generator().manual_seed(0))

    roll_out()
    measured = peak_memory(roll_out)
    work = count_work(args, Lengths(PROMPT, PROMPT, 32), None, None)
    model = Model("", policy.model.config, 0, 0, Nature(), 0)
    planned = transient_of(model, setup(), work, 1.0).rollout
    assert planned == pytest.approx(measured, rel=0.2)


# ---- strategies -----------------------------------------------------------------------------------------------


def test_one_process_and_its_shards_hold_what_zero_says():
    """ZeRO (1910.02054, figure 1): 16 bytes a weight, of which stage 2 leaves 2 + 14 / n, stage 3 16 / n."""
    own, n = setup(itemsize=2, mixed=True), 8
    held = {strategy: memory_of(MODEL, own, NOTHING, strategy, n).held for strategy in (ZERO2, ZERO3)}
    assert held == {ZERO2: (2 + 14 / n) * 1000, ZERO3: 16 / n * 1000}
    # float32 weights under autocast: shards of weights, gradients and moments in float32
    assert memory_of(MODEL, setup(mixed=True), NOTHING, FSDP2, n).held == 16 / n * 1000
    assert memory_of(MODEL, setup(), NOTHING, ONE, 1).held == 16 * 1000
    assert memory_of(MODEL, setup(), NOTHING, DDP, n).held == 20 * 1000  # and its buckets of gradients


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_adapter_and_no_reference_hold_less(strategy):
    def held(trained, reference):
        return memory_of(MODEL, setup(trained, 2, True, reference=reference), NOTHING, strategy, 4).held

    assert held(LORA, False) == held(LORA, True) < held(FULL, False) < held(FULL, True)


def test_sharded_weights_are_whole_while_completions_are_written():
    for strategy, whole in ((ZERO2, 0), (ZERO3, 2 * 1000), (FSDP2, 2 * 1000)):
        assert memory_of(MODEL, setup(itemsize=2, mixed=True), NOTHING, strategy, 4).rollout == whole


def test_zero_sends_what_its_paper_says():
    """1910.02054, section 7: stage 2 sends what data parallelism does, 2 a weight; stage 3 half as much again."""
    own, once, n = setup(itemsize=2, mixed=True), Passes(loss=1, scoring=0, rollouts=0), 8
    sent = {name: sum(bytes_sent(MODEL, own, once, name, n).values()) for name in (DDP, ZERO2, ZERO3, FSDP2)}
    whole = 2 * 1000 * (n - 1) / n
    assert sent == pytest.approx({DDP: 2 * whole, ZERO2: 2 * whole, ZERO3: 3 * whole, FSDP2: 3 * whole})
    assert not any(bytes_sent(MODEL, own, once, ONE, 1).values())
    more = bytes_sent(MODEL, own, Passes(loss=1, scoring=2, rollouts=0.5), ZERO3, n)
    assert sum(more.values()) == pytest.approx(3 * whole + 2.5 * whole)


def test_known_models_are_found_by_name_in_any_case():
    assert find_model("LLaDA-8B", ModelArguments()).weights == find_model("llada-8b", ModelArguments()).weights
