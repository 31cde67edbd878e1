"""An instruct model is trained and evaluated in one and the same format, and its completions end with its turn."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from watching import digit_reward, rollout_of
from zoo.templates import TEMPLATES, templated

from core.masking_strategy import sync_masking_with_nelbo
from trainers.dpo.trainer import DiffusionDPOTrainer
from trainers.evaluating.evaluation import Evaluator, encode_prompts
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.models.families import FAMILIES, Nature
from trainers.models.formats import BARE, settle_format
from trainers.models.policy import Policy
from trainers.rollouts import roll_out
from trainers.settings.dpo import DiffusionDPOConfig
from trainers.settings.objects import build_loss, build_masking
from trainers.settings.options import ConfigError
from trainers.studies.measurements.bench import Bench
from trainers.studies.measurements.exposure import references
from trainers.tasks import gsm8k
from trainers.tasks.verdicts import Verdict

CHAT = [{"role": "system", "content": "Count."}, {"role": "user", "content": "Ann has 8 books."}]


@pytest.fixture(params=TEMPLATES)
def policy(tokenizer, make_micro, request):
    """A micro model with a chat template, in which it is asked; it ends a turn as often as a text."""
    own = templated(tokenizer, request.param)
    form = settle_format(own, Nature(), FAMILIES["llada"], [own.eos_token_id], "auto", None, "micro")
    model = make_micro(own)
    with torch.no_grad():
        model.lm_head.weight[form.turn_ends[0]] = model.lm_head.weight[own.eos_token_id]
    return Policy(model, own, format=form)


@pytest.fixture
def seen(monkeypatch):
    """Prompts that a sampler is asked to complete, as lists of ids."""
    import trainers.evaluating.evaluation as evaluation
    import trainers.grpo.rollout as rollout

    asked = []

    def watched(sampler, prompts, *rest, **more):
        asked.extend(prompts)
        return roll_out(sampler, prompts, *rest, **more)

    for module in (evaluation, rollout):
        monkeypatch.setattr(module, "roll_out", watched)
    return asked


def messages_of(rows: Dataset) -> Dataset:
    chats = [[CHAT[0], {"role": "user", "content": prompt}] for prompt in rows["prompt"]]
    return Dataset.from_list([row | {"prompt": chat} for row, chat in zip(rows, chats, strict=True)])


def grpo(policy, args, rows, reward=digit_reward):
    return ImprovedDiffuGRPOTrainer(policy, [reward], args, rows, rows)


# ---- the same prompt, wherever it is asked --------------------------------------------------------------------------


@pytest.mark.parametrize("messages", [False, True], ids=["text", "messages"])
def test_all_that_asks_asks_with_the_same_tokens(policy, grpo_args, make_sft, tmp_path, splits, seen, messages):
    rows = splits["test"].select(range(8))
    rows = messages_of(rows) if messages else rows
    expected = {tuple(ids) for ids in policy.encode(list(rows["prompt"]))}

    trainer = grpo(policy, grpo_args(), rows)
    rollout_of(trainer)
    assert seen and {tuple(ids) for ids in seen} <= expected, "GRPO's rollouts"
    assert trainer._longest_prompt() == max(map(len, expected))

    seen.clear()
    args = grpo_args()
    loss, masking = build_loss(args), build_masking(args)
    schedule = sync_masking_with_nelbo(masking, loss)
    evaluator = Evaluator(args, schedule, masking, gsm8k, rows, seed=0)
    evaluator.run(policy, 0.0)
    assert {tuple(ids) for ids in seen} == expected, "evaluation"
    lengths = [len(ids) for ids in policy.encode(list(rows["prompt"]))]
    order = [lengths[place] for batch in evaluator.batches(policy) for place in batch]
    assert order == sorted(lengths)

    def prompts_of(ids, mask):
        return {tuple(row[kept.bool()].tolist()) for row, kept in zip(ids, mask, strict=True)}

    shown = encode_prompts(policy, list(rows["prompt"]))
    assert prompts_of(shown["input_ids"], shown["attention_mask"]) == expected, "generate.py"
    (batch,) = make_sft(policy=policy, train=rows).get_train_dataloader()
    assert prompts_of(batch["prompt_ids"], batch["prompt_mask"]) == expected, "SFT"
    (ids, mask, canvas), *_ = references(Bench(make_sft(policy=policy, train=rows).args, policy, gsm8k, rows, 0))
    assert prompts_of(ids, mask) == expected, "exposure"
    # collated rows of SFT and references of exposure hold the same canvases
    assert {tuple(row) for row in canvas.tolist()} == {tuple(row) for row in batch["completion_ids"].tolist()}

    pairs = rows.select_columns(["prompt", "completion"]).rename_column("completion", "chosen")
    pairs = pairs.add_column("rejected", ["no"] * 8)
    args = DiffusionDPOConfig(str(tmp_path), max_completion_length=20, max_timesteps=4, report_to="none")
    found = DiffusionDPOTrainer(policy, args, pairs).train_dataset
    assert {tuple(ids) for ids in found["prompt_ids"]} == expected, "DPO"
    assert {ids[-1] for ids in found["chosen_ids"]} == {policy.format.turn_ends[0]}


def test_messages_for_a_model_without_a_template_are_refused_before_work(make_policy, grpo_args, make_sft, splits):
    rows = messages_of(splits["test"].select(range(8)))
    with pytest.raises(ConfigError, match="a prompt is a list of messages"):
        grpo(make_policy(), grpo_args(), rows)
    with pytest.raises(ConfigError, match="a prompt is a list of messages"):
        make_sft(train=rows)


# ---- the end of a turn ends a completion ----------------------------------------------------------------------------


def test_rollouts_end_with_the_turn_are_filled_with_eos_and_rewarded_as_messages(policy, grpo_args, splits):
    rewarded = []

    def reward(prompts, completions, **kwargs):
        rewarded.extend(zip(prompts, completions, strict=True))
        return digit_reward([told[0]["content"] for told in completions])

    rows = messages_of(splits["train"].select(range(16)))
    trainer = grpo(policy, grpo_args(temperature=1.0, nelbo_replay="segments"), rows, reward)
    assert trainer.eos_token_ids == list(policy.eos_ids)
    kept, complete = [], trainer.roller.complete
    trainer.roller.complete = lambda *args: kept.append(complete(*args)) or kept[-1]
    batch = rollout_of(trainer, 8)
    (trajectory,) = kept
    end, eos = policy.format.turn_ends[0], policy.eos_id
    lasts = [text[-1] for text, stopped in zip(trajectory.completions(), trajectory.stopped, strict=True) if stopped]
    assert end in lasts and set(lasts) <= {end, eos}
    for row, text in enumerate(trajectory.completions()):
        assert trajectory.completion_ids[row].tolist() == text + [eos] * (len(trajectory.ids[row]) - len(text))
    assert batch["completion_mask"].sum(dim=1).tolist() == trajectory.lengths.tolist(), "TRL counts the same tokens"
    special = policy.tokenizer.convert_ids_to_tokens([end, eos])
    assert [prompt for prompt, _ in rewarded] == [rows[row // trainer.num_generations]["prompt"] for row in range(8)]
    assert all([message["role"] for message in told] == ["assistant"] for _, told in rewarded)
    assert not any(token in told[0]["content"] for _, told in rewarded for token in special)


def test_canvases_of_sft_are_those_that_a_rollout_of_the_same_text_leaves(policy, make_sft, splits):
    rows = splits["train"].select(range(8))
    (batch,) = make_sft(policy=policy, train=rows).get_train_dataloader()
    end, eos = policy.format.turn_ends[0], policy.eos_id
    texts = set()
    for canvas in batch["completion_ids"].tolist():
        length = canvas.index(end)
        assert set(canvas[length + 1 :]) <= {eos}
        texts.add(policy.decode(canvas, skip_special_tokens=True))
    assert texts == set(rows["completion"])


def test_the_verifier_gets_the_text_without_its_end(policy, grpo_args, splits):
    args = grpo_args()
    loss, masking = build_loss(args), build_masking(args)
    schedule, judged = sync_masking_with_nelbo(masking, loss), []
    task = SimpleNamespace(verify=lambda text, answer: judged.append(text) or Verdict(strict=True, lenient=True))
    evaluator = Evaluator(args, schedule, masking, task, splits["test"], seed=0)
    evaluator.run(policy, 1.0)
    batch = encode_prompts(policy, list(splits["test"]["prompt"]))
    sampler, keys = evaluator.sampler(policy, 1.0), evaluator.keys(1.0, 0)
    rows = sampler.generate(batch["input_ids"], batch["attention_mask"], keys).ids.tolist()
    ends = [next((i for i, token in enumerate(ids) if token in policy.eos_ids), None) for ids in rows]
    texts = [policy.decode(ids[:end], skip_special_tokens=True) for ids, end in zip(rows, ends, strict=True)]
    assert judged == texts and any(end is not None and end < 7 for end in ends)


def test_bare_text_ends_with_eos_alone_whatever_a_checkpoint_declares(policy, grpo_args, splits):
    policy.model.generation_config.eos_token_id = [policy.eos_id, policy.format.turn_ends[0]]
    trainer = grpo(replace(policy, format=BARE), grpo_args(), splits["train"])
    assert trainer.eos_token_ids == [policy.eos_id]
