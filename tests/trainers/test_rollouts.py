"""Batches do not show: neither their size nor the order of the prompts nor the number of processes."""

import pytest
import torch
from watching import rollout_of

from core.flow import FlowGenerator
from core.sampling import draw_keys
from trainers.evaluating.evaluation import Evaluator
from trainers.rollouts import by_length, compiled_body, roll_out
from trainers.settings.objects import build_generator, build_loss, build_masking
from trainers.tasks import gsm8k

FIELDS = ("ids", "step_map", "lengths", "forwards")


@pytest.fixture
def problem(make_policy, grpo_args):
    """A sampler, prompts of several lengths with repetitions, and their keys."""
    policy, args = make_policy(), grpo_args()
    sampler = build_generator(
        args, policy.denoiser(), build_loss(args).schedule, build_masking(args), policy.tokenizer.eos_token_id
    )
    texts = [
        "Tom has 3 pens.",
        "Ann",
        "Ann",
        "Tom has 3 pens and buys 4 more.",
        "Eve has 9.",
        "Ann",
        "Tom has 3 pens.",
    ]
    prompts = policy.tokenizer(texts)["input_ids"]
    return sampler, prompts, draw_keys(len(prompts), torch.Generator().manual_seed(0))


def complete(problem, batch_size):
    sampler, prompts, keys = problem
    return roll_out(sampler, prompts, keys, pad_id=0, batch_size=batch_size, device=torch.device("cpu"))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_a_completion_does_not_depend_on_its_batch(problem, batch_size):
    whole, parts = complete(problem, 7), complete(problem, batch_size)
    for name in FIELDS:
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    assert torch.allclose(whole.commit_logps, parts.commit_logps, atol=1e-4)


def test_completions_come_in_the_order_of_the_prompts(problem):
    sampler, prompts, keys = problem
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(1))
    mixed = complete((sampler, [prompts[i] for i in order], keys[order]), 3)
    assert torch.equal(mixed.ids, complete(problem, 3).ids[order])


def test_batches_of_equal_lengths_have_no_padding(problem):
    sampler = problem[0]
    seen, generate = [], sampler.generate
    sampler.generate = lambda ids, mask, own: seen.append((ids, mask)) or generate(ids, mask, own)
    complete(problem, 3)
    assert [len(ids) for ids, _ in seen] == [3, 3, 1]
    assert bool(seen[0][1].all())  # three times the shortest prompt, side by side
    assert len(seen[0][0].unique(dim=0)) == 1
    assert all(int(mask.sum(dim=1).max()) == mask.size(1) for _, mask in seen)  # as short as its longest


def test_where_blocks_are_of_the_text_those_are_neighbours_whose_prompts_end_alike():
    lengths = [9, 4, 5, 8, 1, 12, 6]
    assert [lengths[i] for i in by_length(lengths, None)] == [1, 4, 5, 6, 8, 9, 12]
    assert [lengths[i] for i in by_length(lengths, 4)] == [4, 8, 12, 1, 5, 9, 6]


def test_a_flow_does_not_depend_on_its_batch_either(make_policy, problem):
    _, prompts, keys = problem
    policy = make_policy()
    schedule = problem[0].schedule
    flow = FlowGenerator(policy.denoiser(), schedule, 6)
    assert torch.equal(complete((flow, prompts, keys), 2).ids, complete((flow, prompts, keys), 7).ids)


def test_the_micro_batch_does_not_show_in_a_rollout(make_watching):
    rollouts = []
    for size in (None, 3):
        trainer = make_watching(rollout_batch_size=size)
        rollout_of(trainer)
        rollouts.append(trainer.trajectories[0])
    assert torch.equal(rollouts[0].ids, rollouts[1].ids)


def test_the_batch_size_does_not_show_in_an_evaluation(make_policy, grpo_args, splits):
    args = grpo_args()
    loss, policy = build_loss(args), make_policy()
    found = [
        Evaluator(args, loss.schedule, build_masking(args), gsm8k, splits["test"], seed=0, batch_size=size).run(
            policy, 1.0
        )
        for size in (3, 64)
    ]
    assert found[0].completions == found[1].completions and found[0].forwards == found[1].forwards


def test_a_compiled_body_runs_in_rollouts_alone_and_once_per_model(make_watching, monkeypatch):
    """What is compiled, and when; torch.compile itself, which takes a minute, is replaced."""
    compiled, calls = [], []

    def compile(forward, dynamic):
        assert dynamic
        compiled.append(forward)
        return lambda *args, **kwargs: calls.append("forward") or forward(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", compile)
    plain, trainer = make_watching(), make_watching(compile_rollouts=True)
    for each in (plain, trainer):
        rollout_of(each)
    first = len(calls)
    assert first > 0 and len(compiled) == 1
    trainer._compute_loss(trainer.model, trainer.batches[0])
    assert len(calls) == first  # the loss does not go through it
    rollout_of(trainer)
    assert len(calls) > first and len(compiled) == 1
    assert torch.equal(plain.trajectories[0].ids, trainer.trajectories[0].ids)


def test_a_compiled_body_leaves_the_model_as_it_was_also_after_an_exception(make_policy, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: "compiled")
    model = make_policy().model
    with pytest.raises(RuntimeError), compiled_body(model, True):
        assert model.base_model.forward == "compiled"
        raise RuntimeError
    assert "forward" not in vars(model.base_model)
    model.base_model.forward = "patched"
    with compiled_body(model, True):
        assert model.base_model.forward == "compiled"
    assert model.base_model.forward == "patched"
    with compiled_body(model, False):
        assert model.base_model.forward == "patched"
