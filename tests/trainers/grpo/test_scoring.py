"""Rollouts, states and scores of a policy, put together by hand: no trainer is needed for any of them."""

from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from watching import LORA, nudge

from core.scoring.share import WHOLE, Share
from trainers.exposure import Walks
from trainers.grpo.drawing import StateDrawer
from trainers.grpo.metrics import Meter
from trainers.grpo.off_policy import CACHE_KL, CACHE_TRUNCATED, TokenWeights
from trainers.grpo.position import Cadence, Position
from trainers.grpo.rollout import Roller
from trainers.grpo.scoring import Scorer, is_policy
from trainers.grpo.states import COMMITS, OLD, pick
from trainers.rollouts import padded
from trainers.settings.objects import build_likelihood, build_masking, build_scheduled_sampling

HERE = Position(seed=0, training=True, index=0, update=0)
CADENCE = Cadence(accumulated=1, micro_batches=1, iterations=2)
CPU = torch.device("cpu")
TEXTS = ["Tom has 3 pens."] * 4 + ["Ann has 12 pens and Mia has 4."] * 4


@pytest.fixture
def parts(make_policy, grpo_args):
    """The collaborators of a trainer, each built from what it needs."""

    def build(share=WHOLE, **options):
        args, policy = grpo_args(**options), make_policy()
        likelihood, masking = build_likelihood(args), build_masking(args)
        masking.schedule = likelihood.schedule
        metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        meter = Meter(metrics, lambda: HERE, CADENCE, share, 8, walks=False)
        walks = Walks(build_scheduled_sampling(args), masking, likelihood, args.temperature, size=4)
        own = (args, policy, likelihood.schedule, masking, share, lambda: nullcontext(policy.model), CPU)
        return SimpleNamespace(
            args=args,
            policy=policy,
            metrics=metrics,
            meter=meter,
            roller=Roller(*own),
            drawer=StateDrawer(likelihood, masking, CADENCE, share, walks, meter),
            scorer=Scorer(policy, likelihood, args.temperature, meter),
        )

    return build


def prompts_of(policy):
    return policy.tokenizer(TEXTS)["input_ids"]


def stored(parts, at=HERE, rows=slice(None)):
    """A rollout of all prompts by one process, and the states of some of its rows."""
    prompts = prompts_of(parts.policy)
    with parts.roller.sampling() as denoiser:
        trajectory = parts.roller.complete(denoiser, prompts, at)[torch.arange(8)[rows]]
        batch = tuple(part[rows] for part in padded(prompts, parts.policy.tokenizer.pad_token_id, CPU))
        return trajectory, batch, parts.drawer.draw(trajectory, batch, denoiser, at, measure=False)


def test_a_rollout_depends_on_its_position_and_on_nothing_before_it(parts):
    first, again, other = parts(), parts(), Position(seed=0, training=True, index=1, update=0)
    stored(first, other)
    assert torch.equal(stored(first)[0].ids, stored(again)[0].ids)
    assert not torch.equal(stored(first, other)[0].ids, stored(again)[0].ids)


@pytest.mark.parametrize("options", [{}, {"nelbo_source": "forward"}], ids=str)
def test_two_processes_draw_the_states_that_one_would(parts, options):
    (_, _, whole), halves = stored(parts(**options)), []
    for rank in range(2):
        part = parts(**options)
        part.drawer.share = Share(rank, 2, lambda values: values)
        halves.append(stored(part, rows=part.drawer.share.own(4))[2])
    for name, value in whole.to_dict().items():
        assert torch.equal(torch.cat([half.to_dict()[name] for half in halves]), value), name


def test_training_draws_states_for_every_iteration_and_an_evaluation_once(parts):
    drawn = stored(parts())[2].iterations
    assert len(drawn) == 2 and not torch.equal(drawn[0].hidden, drawn[1].hidden)
    evaluated = Position(seed=0, training=False, index=0, update=0)
    assert len(stored(parts(), evaluated)[2].iterations) == 1


@pytest.mark.parametrize(
    ("options", "exact"),
    [({}, True), ({"nelbo_replay": "segments"}, False), ({"nelbo_source": "forward"}, False)],
    ids=str,
)
def test_states_say_whether_they_are_the_samplers_own(parts, options, exact):
    assert stored(parts(**options))[2].replays_exactly is exact


def test_what_the_sampler_recorded_is_what_the_policy_says_of_its_own_steps(parts):
    part = parts(nelbo_replay="all")
    _, prompts, states = stored(part)
    with torch.no_grad():
        scored = part.scorer.of_rollout(part.policy.model, prompts, states, size=8)
    recorded = part.scorer.recorded(states)
    assert scored.shape == recorded.shape == (8, 2, 2, 14)
    assert scored.abs().max() > 1 and (scored - recorded).abs().max() < 1e-4


def test_size_of_a_forward_changes_no_score_and_evaluations_are_counted(parts):
    part = parts()
    _, prompts, states = stored(part)
    before = part.meter.evaluations
    with torch.no_grad():
        found = [part.scorer.of_rollout(part.policy.model, prompts, states, size) for size in (8, 3)]
    assert torch.allclose(*found, atol=1e-5)
    assert part.meter.evaluations - before == 2 * 8 * 2 * states.draws.hidden.size(2)


def test_in_the_loss_the_policy_says_what_it_said_after_the_rollout(parts):
    part = parts()
    _, prompts, states = stored(part)
    with torch.no_grad():
        old = part.scorer.of_rollout(part.policy.model, prompts, states, size=8)
    mask = torch.ones(8, 14, dtype=torch.int64)
    batch = {"advantages": torch.tensor([1.0, -1.0] * 4), "completion_mask": mask, OLD: old} | states.to_dict()
    for iteration in range(2):
        _, picked = pick(batch, iteration)
        logps, entropies = part.scorer.in_loss(part.policy.model, prompts, picked, width=14)
        assert torch.equal(logps, picked.old_logps) and logps.requires_grad
        assert entropies.shape == (8, 14)
    assert part.metrics["train"]["ratio_log_max"] == [0.0, 0.0]


def test_token_weights_turn_to_importance_only_where_there_is_a_cap(parts):
    part = parts(nelbo_replay="all")
    _, prompts, states = stored(part)
    nudge(part.policy.model, size=0.2)  # so that the sampler's law is another one
    mask = torch.ones(8, 14, dtype=torch.int64)
    batch = {"advantages": torch.ones(8), "completion_mask": mask, "completion_ids": states.canvas_ids}
    batch |= {"prompt_ids": prompts[0], "prompt_mask": prompts[1]} | states.to_dict()
    off_policy = TokenWeights(part.scorer.likelihood, part.scorer, part.meter, cap=1.2)
    batch[OLD] = off_policy.old_logps(part.policy.model, batch, states, size=4)
    _, picked = pick(batch, 0)
    own = TokenWeights(part.scorer.likelihood, part.scorer, part.meter, cap=None).of(picked, mask)
    assert CACHE_KL not in part.metrics["train"]
    ratio = (picked.old_logps - batch[COMMITS]).exp()
    scored = picked.draws.scored.any(dim=1)
    expected = torch.where(scored, own * ratio.clamp(max=1.2), own)
    assert torch.allclose(off_policy.of(picked, mask), expected) and not torch.allclose(expected, own)
    assert part.metrics["train"][CACHE_KL][0] > 0
    assert part.metrics["train"][CACHE_TRUNCATED] == [pytest.approx((ratio > 1.2)[scored].float().mean().item())]


def test_the_policy_is_told_from_its_reference(make_policy):
    accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    policy, other = make_policy().model, make_policy().model
    assert is_policy(policy, policy, accelerator) and not is_policy(other, policy, accelerator)
    adapted = get_peft_model(policy, LORA)
    assert is_policy(adapted, adapted, accelerator)
    with adapted.disable_adapter():
        assert not is_policy(adapted, adapted, accelerator)
    adapted.add_adapter("ref", LORA)
    adapted.set_adapter("ref")
    assert not is_policy(adapted, adapted, accelerator)
