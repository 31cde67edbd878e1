"""What a plan says of models, calls and arithmetic, against the models, samplers, trainers and torch's own count."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig
from zoo import standins
from zoo.standins import STAND_INS

from core.masking_strategy import sync_masking_with_nelbo
from core.scoring import Likelihood
from core.trajectory import Trajectory
from trainers.benchmarking.counters import watch
from trainers.benchmarking.roofline import Costs, Peaks
from trainers.benchmarking.shapes import Shape, random_policy
from trainers.benchmarking.steps import FULL, LORA
from trainers.models.adapters import lora_config
from trainers.planning.derived import how_often
from trainers.planning.memory import Setup
from trainers.planning.models import Model, find_model
from trainers.planning.phases import AGAIN, BACKWARD, FORWARD, Meter, phases_of
from trainers.planning.work import Lengths, Work, count_work
from trainers.settings.model import ModelArguments
from trainers.settings.objects import build_generator, build_likelihood, build_loss, build_masking
from trainers.settings.options import ConfigError

PROMPT, ROWS, CANVAS, RANK = 6, 8, 14, 2
GROUPED = Shape(32, 48, 3, 4, 2, 300)  # keys and values of two heads shared by four
# LLaDA-8B-Instruct's config.json (2502.09992), as far as it says sizes
LLADA_8B = {
    "architectures": ["LLaDAModelLM"],
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "mlp_hidden_size": 12288,
    "embedding_size": 988 * 128,
    "vocab_size": 988 * 128,
    "weight_tying": False,
}


def written(folder, entries):
    (folder / "config.json").write_text(json.dumps(entries))
    return find_model(str(folder), ModelArguments())


# ---- models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "millions"), [("llada-8b", 8015.6), ("dream-7b", 7615.6), ("smollm2-135m", 134.5)])
def test_known_names_have_the_published_number_of_weights(name, millions):
    assert find_model(name, ModelArguments()).weights / 1e6 == pytest.approx(millions, abs=0.05)


def test_llada_by_its_own_names_costs_what_the_field_says(tmp_path):
    model = written(tmp_path, LLADA_8B)
    assert round(model.weights / 1e9, 2) == 8.02
    costs = model.costs(2)
    assert round(costs.flop_per_position / 1e9, 2) == 13.96
    assert round(costs.flop_per_head_row / 1e9, 2) == 1.04


def more_in_the_real(name, config):
    """Weights of the published architecture that its stand-in goes without: biases (Dream), norms of queries and keys
    (SDAR, LLaDA-MoE), by layers of ``config``."""
    width = getattr(config, "hidden_size", 0)
    head = width // getattr(config, "num_attention_heads", 1)
    return {"dream": 3 * width, "sdar": 2 * head, "llada_moe": 2 * head}.get(name, 0) * config.num_hidden_layers


@pytest.mark.parametrize("name", [name for name in STAND_INS if name != "a2d"])  # in code of its own
def test_weights_are_counted_without_the_model(name, stand_in, tmp_path):
    _, model = stand_in(name)
    own = model.config.to_dict() | {"architectures": [STAND_INS[name].architecture or type(model).__name__]}
    if STAND_INS[name].code:
        own["auto_map"] = {"AutoModel": "modeling.Model"}
    more = 0 if name.startswith("llada") and name != "llada_moe" else more_in_the_real(name, model.config)
    planned = written(tmp_path, own)
    assert planned.weights == sum(weight.numel() for weight in model.parameters()) + more
    assert planned.attention == ("bidirectional" if STAND_INS[name].block_length is None else "block_causal")


def test_adapters_are_counted_without_the_model(tmp_path):
    model = random_policy(GROUPED).model
    arguments = ModelArguments(use_peft=True, lora_r=3)
    model.config.architectures = ["LlamaForCausalLM"]
    (tmp_path / "config.json").write_text(model.config.to_json_string(use_diff=False))
    planned = find_model(str(tmp_path), arguments)
    adapted = get_peft_model(model, lora_config(arguments, model))
    assert planned.adapter == sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)


# ---- calls ---------------------------------------------------------------------------------------------------------


def without_ends(args, policy, likelihood):
    """A rollout of the real generator on a real model, and a scoring of it, watched."""
    masking = build_masking(args)
    schedule = sync_masking_with_nelbo(masking, build_loss(args))
    sampler = build_generator(args, policy.denoiser(), schedule, masking, eos_id=None)
    prompts = torch.arange(1, 1 + ROWS // args.num_generations).repeat_interleave(args.num_generations)
    prompts = prompts.unsqueeze(1).expand(-1, PROMPT).contiguous()
    sampler.generate(prompts, torch.ones_like(prompts), torch.Generator().manual_seed(1))  # looks at the model, once
    noise = torch.Generator().manual_seed(1)
    with watch(policy.model) as rollout:
        made = sampler.generate(prompts, torch.ones_like(prompts), noise)
    sync_masking_with_nelbo(masking, likelihood)
    draws = likelihood.draw(masking, ROWS, args.max_completion_length, PROMPT, noise, trajectory=made)
    with torch.no_grad():
        asked = (policy.denoiser(), prompts, torch.ones_like(prompts), made.ids, draws)
        likelihood.score(*asked)
        with watch(policy.model) as scored:
            likelihood.score(*asked)
    return rollout, scored


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block_length": 2, "nelbo_replay": "segments"},
        {"sampler": "ancestral", "selection": "top1"},
        {"sampler": "entropy_bound", "entropy_bound": 0.0, "nelbo_replay": "all"},
        {"sampler": "revise", "nelbo_source": "forward", "nelbo_replay": None},
        {"cache": "prefix", "block_length": 2},
        {"cache": "dual", "block_length": 2, "cache_refresh": 2},
        {"states_per_forward": 3},
        {"likelihood": "coupled"},
    ],
    ids=str,
)
def test_planned_calls_are_those_of_the_real_sampler_and_likelihood(options, grpo_args, make_policy):
    args, policy = grpo_args(**options), make_policy()
    policy.model.config.vocab_size = policy.model.get_output_embeddings().out_features
    likelihood = build_likelihood(args)
    likelihood.states_per_forward = args.states_per_forward
    rollout, scored = without_ends(args, policy, likelihood)
    planned = count_work(args, Lengths(PROMPT, PROMPT, CANVAS), None, None)
    if options.get("sampler") == "ancestral":  # chance decides which transitions reveal something
        assert planned.rollout.forwards == pytest.approx(rollout.forwards, rel=0.3)
    else:
        assert (planned.rollout.body, planned.rollout.head) == (rollout.body, rollout.head)
        assert planned.rollout.last_feed_forward == rollout.last_feed_forward
    assert planned.scored.body == scored.body
    by_chance = args.likelihood == "coupled" or args.nelbo_source == "forward" or args.nelbo_replay == "drawn"
    spread = 0.35 if by_chance else 0  # a few dozen positions
    assert planned.scored.head_rows == pytest.approx(scored.head_rows, rel=spread)


def fed_rows(calls):
    fed = Counter()
    for each, times in calls.body.items():
        fed[each.rows, each.fed] += times
    return fed


def test_calls_of_a_block_causal_model(grpo_args, stand_in):
    directory, _ = stand_in("sdar")
    policy = standins.load("sdar", directory)
    args = grpo_args(block_length=standins.BLOCK, max_timesteps=14, nelbo_replay="segments")
    rollout, scored = without_ends(args, policy, build_likelihood(args, standins.BLOCK))
    planned = count_work(args, Lengths(PROMPT, PROMPT, CANVAS), standins.BLOCK, None)
    # what is stored this model's code does not say
    assert fed_rows(planned.rollout) == fed_rows(rollout)
    assert planned.rollout.head == rollout.head
    assert planned.scored.body == scored.body


def test_texts_that_end_early_save_whole_blocks(grpo_args):
    args = grpo_args(block_length=2)
    forwards = [count_work(args, Lengths(PROMPT, PROMPT, n), None, None).rollout.forwards for n in (4, 8, CANVAS)]
    assert forwards == [2, 4, 7]  # one evaluation a block, up to that in which the text ends


def test_an_adaptive_sampler_takes_what_the_user_says(grpo_args):
    args = grpo_args(sampler="confidence")
    assert count_work(args, Lengths(PROMPT, PROMPT, CANVAS), None, None).rollout.forwards == CANVAS
    assert count_work(args, Lengths(PROMPT, PROMPT, CANVAS), None, 2).rollout.forwards == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 0.1},
        {"num_iterations": 2},
        {"num_iterations": 2, "beta": 0.1, "reuse_commit_logps": False},
        {"gradient_accumulation_steps": 2, "beta": 0.1},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "reuse_commit_logps": False},
    ],
    ids=str,
)
def test_a_step_scores_as_often_as_the_trainer_does(options, make_grpo, monkeypatch):
    scored = {True: 0, False: 0}  # states, with gradient and without
    score = Likelihood.score

    def counted(self, denoiser, prompt_ids, prompt_mask, ids, draws, *args):
        scored[torch.is_grad_enabled()] += draws.hidden.size(0) * draws.hidden.size(1)
        return score(self, denoiser, prompt_ids, prompt_mask, ids, draws, *args)

    monkeypatch.setattr(Likelihood, "score", counted)
    trainer = make_grpo(max_steps=4, **options)
    trainer.train()
    planned = count_work(trainer.args, Lengths(PROMPT, PROMPT, CANVAS), None, None)
    often, states = how_often(trainer.args, planned), planned.scored.row_forwards
    assert scored[True] == 4 * often.loss * states
    assert scored[False] == 4 * (often.old + often.reference) * states


# ---- arithmetic ----------------------------------------------------------------------------------------------------


def step_flop(setup, policy, args):
    """torch's own count of a scoring and its backward, and the plan's."""
    model, likelihood = policy.model, build_likelihood(args)
    likelihood.states_per_forward = args.states_per_forward
    planned = count_work(args, Lengths(PROMPT, PROMPT, CANVAS), None, None)
    masking = build_masking(args)
    sync_masking_with_nelbo(masking, likelihood)
    ids = torch.randint(3, 200, (ROWS, CANVAS), generator=torch.Generator().manual_seed(0))
    steps = torch.arange(CANVAS).expand(ROWS, -1) // 2
    zeros = torch.zeros(ROWS, dtype=torch.int64)
    made = Trajectory(ids, steps, torch.zeros_like(ids).float(), zeros + CANVAS, zeros.bool(), zeros, True, None)
    draws = likelihood.draw(masking, ROWS, CANVAS, PROMPT, torch.Generator().manual_seed(0), trajectory=made)
    prompts = ids[:, :PROMPT]
    asked = (policy.denoiser(), prompts, torch.ones_like(prompts), ids, draws)
    with torch.no_grad():
        likelihood.score(*asked)  # looks at the model, once
    with FlopCounterMode(display=False) as counter:
        likelihood.score(*asked).sequence_bound.sum().backward()
    config = model.config if setup.trained == FULL else model.get_base_model().config
    adapter = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    own = Model("", config, 0, adapter, "bidirectional", 0)
    meter = Meter(own, setup, Peaks(1.0, 1.0), casts=False)
    streamed = planned.scored.forwards > 1
    phases = phases_of(meter, Work(planned.rollout, planned.scored, 0), how_often(args, planned), streamed, 0, 4)
    mine = sum(phase.flop for phase in phases if phase.name in (FORWARD, BACKWARD, AGAIN))
    return counter.get_total_flops(), mine, planned


@pytest.mark.parametrize("states_per_forward", [None, 4])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("trained", [FULL, LORA])
def test_arithmetic_of_a_training_step_is_torchs_own_count(trained, checkpointed, states_per_forward, grpo_args):
    """Equal but for four things that are too small to plan, and are counted here."""
    policy = random_policy(GROUPED)
    policy.model.set_attn_implementation("eager")  # a fused kernel hides its products from torch's counter
    args = grpo_args(nelbo_replay="segments", states_per_forward=states_per_forward)
    args.gradient_checkpointing = checkpointed
    if trained == LORA:
        adapter = lora_config(ModelArguments(use_peft=True, lora_r=RANK), policy.model)
        policy = replace(policy, model=get_peft_model(policy.model, adapter))
    policy.model.train()
    if checkpointed:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    counted, planned, work = step_flop(Setup(trained, 4, False, checkpointed, False), policy, args)
    costs, scored = Costs(random_policy(GROUPED).model.config, 4), work.scored
    hidden, inner = costs.head[0], costs.feed_forward[0][1]
    # each forward asks the head for one row, to learn how wide it is
    looks = scored.forwards * (1 if states_per_forward is None else 2) * costs.flop_per_head_row
    missed = 0
    if trained == FULL:  # the addmm_ that sums up the head's gradient in place is unknown to torch's counter
        missed = scored.head_rows * costs.flop_per_head_row
    elif checkpointed:  # the very last matrix of a layer, an adapter's, is not made again
        missed = 2 * scored.positions * costs.layers * RANK * hidden
    else:
        # nothing before the first layer wants a gradient, so its queries, keys and values give none
        missed = 2 * scored.positions * (hidden * (costs.queries + 2 * costs.keys) + 3 * RANK * hidden)
        # and where the last feed-forward module is not run, its adapters are not either
        skipped = scored.positions - sum(times * rows for rows, times in scored.last_feed_forward.items())
        passes = 3 if states_per_forward is None else 4
        missed += passes * 2 * skipped * 3 * RANK * (hidden + inner)
    assert planned - missed + looks == pytest.approx(counted, rel=1e-9)


def test_arithmetic_of_a_rollout_is_torchs_own_count(grpo_args):
    policy = random_policy(GROUPED)
    policy.model.set_attn_implementation("eager")
    args = grpo_args()
    masking = build_masking(args)
    schedule = sync_masking_with_nelbo(masking, build_loss(args))
    sampler = build_generator(args, policy.denoiser(), schedule, masking, eos_id=None)
    prompts = torch.tensor([5, 6]).repeat_interleave(4).unsqueeze(1).expand(-1, PROMPT).contiguous()
    sampler.generate(prompts, torch.ones_like(prompts), torch.Generator().manual_seed(0))  # looks at the model, once
    with FlopCounterMode(display=False) as counter:
        sampler.generate(prompts, torch.ones_like(prompts), torch.Generator().manual_seed(0))
    work = count_work(args, Lengths(PROMPT, PROMPT, CANVAS), None, None)
    assert Costs(policy.model.config, 4).flop(work.rollout) == counter.get_total_flops()


@pytest.mark.parametrize("name", ["bert", "modernbert", "qwen3"])
def test_arithmetic_of_other_architectures_is_torchs_own_count(name, stand_in):
    _, model = stand_in(name)
    model.set_attn_implementation("eager")
    ids = torch.arange(3 * 10).view(3, 10)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    model.set_attn_implementation("sdpa")
    costs = Costs(model.config, 4)
    planned = 30 * (costs.flop_per_position + costs.attention_flop(10) + costs.flop_per_head_row)
    assert planned == counter.get_total_flops()


def test_an_architecture_that_the_cost_model_does_not_know_is_refused(tmp_path):
    config = LlamaConfig(**vars(GROUPED)).to_dict() | {"architectures": ["BloomForCausalLM"], "model_type": "bloom"}
    with pytest.raises(ConfigError, match="cost model knows"):
        written(tmp_path, config | {"n_head": 4, "n_layer": 2, "hidden_size": 32})
