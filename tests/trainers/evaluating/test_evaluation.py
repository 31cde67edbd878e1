"""An evaluation judges every problem once, in order, on noise of its own, and leaves the policy as it was."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from core.masking_strategy import sync_masking_with_nelbo
from trainers.evaluating.evaluation import Evaluation, Evaluator, encode_prompts, summarise
from trainers.settings.objects import build_loss, build_masking
from trainers.tasks import gsm8k
from trainers.tasks.verdicts import Verdict


@pytest.fixture
def make_evaluator(grpo_args, splits):
    def build(verify=gsm8k.verify, seed=0, **kwargs):
        args = grpo_args()
        loss, masking = build_loss(args), build_masking(args)
        schedule = sync_masking_with_nelbo(masking, loss)
        problems = splits["test"]
        return Evaluator(args, schedule, masking, SimpleNamespace(verify=verify), problems, seed, **kwargs)

    return build


def outcome(strict, lenient, clusters=None):
    clusters = clusters or [str(i) for i in range(len(strict))]
    return Evaluation(strict, lenient, clusters, completions=[""] * len(strict), forwards=7.0, seconds=1.0)


@pytest.mark.parametrize("batch_size", [5, 128])
def test_every_completion_is_judged_once_against_its_own_answer(make_evaluator, make_policy, splits, batch_size):
    judged = []

    def verify(completion, answer):
        judged.append((completion, answer))
        return Verdict(strict=len(judged) % 4 == 0, lenient=len(judged) % 2 == 0)

    evaluation = make_evaluator(verify, batch_size=batch_size).run(make_policy(), temperature=1.0)
    assert [answer for _, answer in judged] == list(splits["test"]["answer"])
    assert [completion for completion, _ in judged] == evaluation.completions
    assert evaluation.clusters == list(splits["test"]["cluster"])
    assert evaluation.strict == [False, False, False, True] * 6
    assert evaluation.lenient == [False, True] * 12
    assert evaluation.accuracy("strict").value == 0.25
    assert evaluation.accuracy("lenient").value == 0.5
    assert 1 <= evaluation.forwards <= 7


def test_problems_of_one_cluster_do_not_count_as_independent():
    alone = outcome([True, False] * 20, [True] * 40)
    paired = outcome([True, True, False, False] * 10, [True] * 40, [str(i // 2) for i in range(40)])
    assert alone.accuracy("strict").value == paired.accuracy("strict").value == 0.5
    width = [e.accuracy("strict").high - e.accuracy("strict").low for e in (alone, paired)]
    assert width[1] == pytest.approx(width[0] * 2**0.5, rel=0.05)


def test_gain_is_the_paired_difference_of_one_parser():
    before = outcome([False] * 10, [True] * 10)
    after = outcome([True] * 4 + [False] * 6, [True] * 9 + [False])
    assert after.gain_over(before, "strict").value == pytest.approx(0.4)
    assert after.gain_over(before, "lenient").value == pytest.approx(-0.1)
    assert after.gain_over(after, "strict").value == 0.0


def test_equal_seeds_give_equal_completions(make_evaluator, make_policy):
    first, second, other = (make_evaluator(seed=seed).run(make_policy(), 1.0).completions for seed in (0, 0, 1))
    assert first == second != other


def test_greedy_decoding_depends_on_no_seed_and_no_batch(make_evaluator, make_policy):
    evaluators = make_evaluator(seed=0), make_evaluator(seed=1), make_evaluator(batch_size=7)
    first, seeded, batched = (evaluator.run(make_policy(), 0.0).completions for evaluator in evaluators)
    assert first == seeded == batched


def test_both_decodings_are_those_of_their_temperatures(make_evaluator, make_policy):
    evaluator, policy = make_evaluator(), make_policy()
    both = evaluator.both(policy)
    assert both["sampled"].completions == evaluator.run(policy, 1.0).completions
    assert both["greedy"].completions == evaluator.run(policy, 0.0).completions
    assert both["sampled"].completions != both["greedy"].completions


def test_perfect_completions_are_all_right_under_both_parsers(make_evaluator, make_policy, splits, monkeypatch):
    policy = make_policy()
    monkeypatch.setattr(
        type(policy.tokenizer), "batch_decode", lambda *args, **kwargs: list(splits["test"]["completion"])
    )
    evaluation = make_evaluator().run(policy, 0.0)
    assert all(evaluation.strict) and all(evaluation.lenient)


@pytest.mark.parametrize("training", [True, False])
def test_policy_and_global_randomness_are_left_as_they_were(make_evaluator, make_policy, training):
    policy = make_policy()
    policy.model.train(training)
    modes = []
    policy.model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    before = torch.get_rng_state()
    make_evaluator().both(policy)
    assert policy.model.training is training
    assert modes and not any(modes), "denoised in eval mode"
    assert torch.equal(torch.get_rng_state(), before)


def test_prompts_are_padded_on_the_left(make_policy, tokenizer):
    batch = encode_prompts(make_policy(), ["Tom", "Tom has 3 pens and Ann has 4."])
    assert batch["attention_mask"][0, -1] == 1 and batch["attention_mask"][0, 0] == 0
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "Tom"


def test_summary_names_decoding_and_parser():
    summary = summarise({"sampled": outcome([True, False], [True, True]), "greedy": outcome([False] * 2, [False] * 2)})
    assert set(summary) == {"sampled strict", "sampled lenient", "greedy strict", "greedy lenient"}
    assert all(set(numbers) >= {"value", "low", "high"} for numbers in summary.values())
    assert summary["sampled strict"]["value"] == 0.5 and summary["greedy lenient"]["value"] == 0.0


# ---- the noise of a completion is its problem's own -----------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_the_batch_size_does_not_show(make_evaluator, make_policy, temperature, batch_size):
    whole = make_evaluator(batch_size=24).run(make_policy(), temperature)
    parts = make_evaluator(batch_size=batch_size).run(make_policy(), temperature)
    assert parts.completions == whole.completions and parts.forwards == whole.forwards
    assert (parts.strict, parts.lenient) == (whole.strict, whole.lenient)


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_the_first_problems_are_completed_alike_in_a_shorter_split(make_evaluator, make_policy, temperature):
    evaluator, policy = make_evaluator(), make_policy()
    whole = evaluator.run(policy, temperature)
    for count in (1, 5, 17):  # torch draws in blocks of 16
        few = replace(evaluator, problems=evaluator.problems.select(range(count)))
        assert few.run(policy, temperature).completions == whole.completions[:count]


def test_any_problems_in_any_order_are_answered_as_in_the_whole(make_evaluator, make_policy):
    evaluator, policy = make_evaluator(), make_policy()
    whole = evaluator.answer(policy, 1.0, range(24))
    some = evaluator.answer(policy, 1.0, [19, 2, 23, 7])
    assert [answer.problem for answer in some] == [19, 2, 23, 7]
    assert [outcome_of(answer) for answer in some] == [outcome_of(whole[i]) for i in (19, 2, 23, 7)]


def outcome_of(answer):
    return replace(answer, seconds=0.0)


def test_every_repetition_has_noise_of_its_own(make_evaluator, make_policy):
    evaluator, policy = make_evaluator(), make_policy()
    texts = [[a.completion for a in evaluator.answer(policy, 1.0, range(24), repetition)] for repetition in range(3)]
    assert texts[0] == evaluator.run(policy, 1.0).completions
    assert len({tuple(run) for run in texts}) == 3
    neighbour = [a.completion for a in make_evaluator(seed=1).answer(policy, 1.0, range(24))]
    assert neighbour not in texts, "another seed repeats nothing of this one"


def test_batches_hold_every_problem_once_by_length(make_evaluator, make_policy):
    evaluator, policy = make_evaluator(batch_size=7), make_policy()
    batches = evaluator.batches(policy)
    assert [len(batch) for batch in batches] == [7, 7, 7, 3]
    assert sorted(place for batch in batches for place in batch) == list(range(24))
    prompts = evaluator.problems["prompt"]
    lengths = [len(policy.tokenizer(prompts[place])["input_ids"]) for batch in batches for place in batch]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("batch_size", [5, 128])
def test_it_is_kept_how_the_first_problems_were_answered(make_evaluator, make_policy, batch_size):
    policy = make_policy()
    kept = make_evaluator(batch_size=batch_size, played=3).both(policy)
    for name, evaluation in make_evaluator().both(policy).items():
        played = kept[name].playbacks
        assert list(played) == [0, 1, 2] and evaluation.playbacks == {}
        assert [played[i].text for i in played] == evaluation.completions[:3] == kept[name].completions[:3]
    some = make_evaluator(batch_size=batch_size, played=3).answer(policy, 1.0, [7, 1, 4])
    assert [answer.problem for answer in some if answer.playback is not None] == [1]
    assert any(logp for logp in kept["sampled"].playbacks[0].logps)
    assert not any(logp for logp in kept["greedy"].playbacks[0].logps)
