"""The trainers as users of TRL call them: names of models, reward functions out of TRL's documentation, TRL's data."""

import asyncio
import math
import re

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification
from zoo.templates import TEMPLATES, templated

from trainers import (
    DiffusionDPOConfig,
    DiffusionDPOTrainer,
    DiffusionSFTConfig,
    DiffusionSFTTrainer,
    ImprovedDiffuGRPOConfig,
    ImprovedDiffuGRPOTrainer,
    load_policy,
)
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture
def small(tmp_path):
    """Options of two small steps."""

    def options(cls, **overrides):
        base = {
            "max_timesteps": 7,
            "max_completion_length": 14,
            "p_mask_prompt": 0.0,
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        base |= {"num_generations": 4} if cls is ImprovedDiffuGRPOConfig else {}
        return cls(str(tmp_path / "out"), **base | overrides)

    return options


PLAIN = Dataset.from_list([{"prompt": f"What is {i} + 1?\nAnswer:", "ground_truth": str(i + 1)} for i in range(16)])
CHATS = [{"prompt": [{"role": "user", "content": f"What is {i} + 1?"}], "ground_truth": str(i + 1)} for i in range(16)]
CHATS = Dataset.from_list(CHATS)


def logged(trainer, name):
    """Of each step, of a trainer that is trained if it was not."""
    if not trainer.state.global_step:
        trainer.train()
    return [row[name] for row in trainer.state.log_history if name in row]


# ---- reward functions as TRL's documentation has them ---------------------------------------------------------------


def reward_func(completions, **kwargs):
    """Longer completions are better."""
    return [float(len(completion)) for completion in completions]


def reward_ground_truth(completions, ground_truth, **kwargs):
    matches = [re.search(r"\d+", completion) for completion in completions]
    contents = [match.group(0) if match else "" for match in matches]
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth, strict=True)]


def format_reward_func(completions, **kwargs):
    """As in TRL's "Example 2", with an easier pattern."""
    completion_contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(r"^.*?\d", content) else 0.0 for content in completion_contents]


async def async_reward_func(prompts, completions, **kwargs):
    await asyncio.sleep(0)
    return [float(prompt.startswith("What")) for prompt in prompts]


def not_applicable(completions, **kwargs):
    return [None for _ in completions]


def test_a_name_one_function_and_rows_of_texts_are_enough(small, tmp_path):
    args = small(ImprovedDiffuGRPOConfig)
    trainer = ImprovedDiffuGRPOTrainer("tiny", reward_func, args, PLAIN)
    lengths = logged(trainer, "rewards/reward_func/mean")
    assert len(lengths) == 2 and min(lengths) > 0
    trainer.save_model(str(tmp_path / "model"))
    again = ImprovedDiffuGRPOTrainer(str(tmp_path / "model"), reward_func, args, PLAIN)
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_several_functions_plain_and_async_with_weights_are_added_up(small):
    args = small(ImprovedDiffuGRPOConfig, reward_weights=[1.0, 0.5, 2.0])
    rewards = [reward_ground_truth, async_reward_func, not_applicable]
    trainer = ImprovedDiffuGRPOTrainer("tiny", rewards, args, train_dataset=PLAIN, eval_dataset={"a": PLAIN})
    assert logged(trainer, "rewards/async_reward_func/mean") == [1.0, 1.0]
    right, total = (logged(trainer, name)[0] for name in ("rewards/reward_ground_truth/mean", "reward"))
    assert total == pytest.approx(right + 0.5)
    assert trainer.evaluate()["eval_a_runtime"] > 0 and logged(trainer, "eval_reward")


def test_completions_are_messages_where_prompts_are(chat_dir, small):
    seen = []

    def keep(prompts, completions):
        seen.extend(zip(prompts, completions, strict=True))
        return format_reward_func(completions)

    args = small(ImprovedDiffuGRPOConfig, log_completions=True)
    trainer = ImprovedDiffuGRPOTrainer(str(chat_dir), [format_reward_func, keep], args, CHATS)
    assert trainer.policy.format.chat
    assert logged(trainer, "rewards/format_reward_func/failed") == [0.0, 0.0]
    questions = [row["prompt"] for row in CHATS]
    for prompt, completion in seen:
        assert prompt in questions
        assert [*completion[0]] == ["role", "content"] and completion[0]["role"] == "assistant"


def test_texts_stay_texts_for_a_model_that_is_asked_in_its_template(chat_dir, small):
    seen = []

    def keep(prompts, completions):
        seen.extend(prompts + completions)
        return [float(len(text)) for text in completions]

    ImprovedDiffuGRPOTrainer(str(chat_dir), keep, small(ImprovedDiffuGRPOConfig, max_steps=1), PLAIN).train()
    assert all(isinstance(text, str) for text in seen) and {*PLAIN["prompt"]} & {*seen}


def test_a_reward_model_is_called_by_trl(tokenizer, small, tmp_path):
    torch.manual_seed(0)
    judge = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=1, num_labels=1, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    judge.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    args = small(ImprovedDiffuGRPOConfig, max_steps=1, model_init_kwargs={"attn_implementation": "eager"})
    trainer = ImprovedDiffuGRPOTrainer("tiny", [str(tmp_path / "judge"), reward_func], args, PLAIN)
    (value,) = logged(trainer, "rewards/judge/mean")
    assert math.isfinite(value) and value != 0
    kernels = [model.config._attn_implementation for model in (trainer.policy.model, trainer.reward_funcs[0])]
    assert kernels == ["eager", "sdpa"] and args.model_init_kwargs == {"attn_implementation": "eager"}


def test_a_reward_that_needs_a_column_is_refused_before_the_model_is_loaded(small):
    with pytest.raises(ConfigError, match="reward_ground_truth needs 'ground_truth', which is neither a column of"):
        ImprovedDiffuGRPOTrainer(
            "nowhere", reward_ground_truth, small(ImprovedDiffuGRPOConfig), PLAIN.remove_columns("ground_truth")
        )
    with pytest.raises(ConfigError, match="2 weights for the 1 of"):
        args = small(ImprovedDiffuGRPOConfig, reward_weights=[1.0, 2.0])
        ImprovedDiffuGRPOTrainer("nowhere", reward_func, args, PLAIN)
    with pytest.raises(ConfigError, match="verify: train_dataset has no column answer"):
        ImprovedDiffuGRPOTrainer("nowhere", reward_func, small(ImprovedDiffuGRPOConfig), PLAIN, verify=max)


# ---- models ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[next(iter(TEMPLATES))])
def chat_dir(request, tokenizer, make_micro, tmp_path):
    """The directory of a model that was tuned on turns: its config calls the end of a turn an end of text."""
    own = templated(tokenizer, request.param)
    model = make_micro(own)
    end = re.search(
        r"<\|[a-z_]+\|>(?=\W*$)", own.apply_chat_template([{"role": "assistant", "content": "4"}], tokenize=False)
    )
    model.config.eos_token_id = model.generation_config.eos_token_id = own.convert_tokens_to_ids(end.group(0))
    model.save_pretrained(tmp_path / "chat")
    own.save_pretrained(tmp_path / "chat")
    return tmp_path / "chat"


def test_without_options_there_are_those_of_trl_and_a_directory_after_the_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    trainer = ImprovedDiffuGRPOTrainer("tiny", reward_func, train_dataset=PLAIN)
    assert trainer.args.output_dir == "tiny-GRPO" and trainer.args.num_generations == 8


def test_a_model_in_memory_is_trained_in_place(model_dir, small):
    model = AutoModelForCausalLM.from_pretrained(str(model_dir))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = ImprovedDiffuGRPOTrainer(model, reward_func, small(ImprovedDiffuGRPOConfig), PLAIN)
    trainer.train()
    assert trainer.model is model
    assert any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("bf16", [False, True])
def test_sft_and_then_grpo_with_a_kl_on_one_policy(small, bf16):
    """The reference is a copy that runs its own weights: TRL's and accelerate's forwards of the first trainer ran
    those of the policy, from which no update is away."""
    policy = load_policy(ModelArguments())
    rows = Dataset.from_list([{"prompt": row["prompt"], "completion": row["ground_truth"]} for row in PLAIN])
    DiffusionSFTTrainer(policy, small(DiffusionSFTConfig, bf16=bf16), rows).train()
    args = small(ImprovedDiffuGRPOConfig, beta=0.1, bf16=bf16)
    first, second = logged(ImprovedDiffuGRPOTrainer(policy, reward_func, args, PLAIN), "kl")
    assert first == pytest.approx(0, abs=1e-6) and second > 1e-3


def test_an_adapter_is_trained_and_what_is_saved_is_loaded_by_name(small, tmp_path):
    args = small(ImprovedDiffuGRPOConfig, beta=0.1, learning_rate=1.0)
    trainer = ImprovedDiffuGRPOTrainer("tiny", reward_func, args, PLAIN, peft_config=LORA)
    assert logged(trainer, "kl")[1] > 0
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    merged = ImprovedDiffuGRPOTrainer(str(tmp_path / "adapter"), reward_func, args, PLAIN, peft_config=LORA)
    base = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
    assert not torch.equal(
        merged.model.state_dict()[base],
        load_policy(ModelArguments()).model.state_dict()["model.layers.0.self_attn.q_proj.weight"],
    )
    # and the model of one trainer is that of the next
    again = DiffusionSFTTrainer(
        trainer.model, small(DiffusionSFTConfig), SFT_ROWS, processing_class=trainer.processing_class
    )
    again.train()
    assert again.policy.model is trainer.model


# ---- SFT and DPO ----------------------------------------------------------------------------------------------------

SFT_ROWS = Dataset.from_list([{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(8)])


def said(text, role="assistant"):
    return [{"role": role, "content": text}]


def test_all_formats_of_sft_are_the_same_rows(chat_dir, small):
    texts = [(f"What is {i} + 1?", f"{i + 1}") for i in range(8)]
    formats = [
        [{"prompt": p, "completion": c} for p, c in texts],
        [{"prompt": said(p, "user"), "completion": said(c)} for p, c in texts],
        [{"messages": said(p, "user") + said(c)} for p, c in texts],
    ]
    policy, found = load_policy(ModelArguments(str(chat_dir))), []
    for rows in formats:
        rows = Dataset.from_list(rows)
        trainer = DiffusionSFTTrainer(policy, small(DiffusionSFTConfig), rows, {"a": rows})
        found.append((trainer.train_dataset["input_ids"][:], trainer.train_dataset["labels"][:]))
    trainer.train()
    assert found[0] == found[1] == found[2]


def test_all_formats_of_dpo_are_the_same_pairs(chat_dir, small):
    texts = [(f"What is {i} + 1?", f"{i + 1}", f"{i}") for i in range(8)]
    formats = [
        [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in texts],
        [{"prompt": said(p, "user"), "chosen": said(c), "rejected": said(r)} for p, c, r in texts],
        [{"chosen": said(p, "user") + said(c), "rejected": said(p, "user") + said(r)} for p, c, r in texts],
    ]
    policy, found = load_policy(ModelArguments(str(chat_dir))), []
    for rows in formats:
        rows = Dataset.from_list(rows)
        trainer = DiffusionDPOTrainer(policy, small(DiffusionDPOConfig), rows, {"a": rows}, peft_config=None)
        found.append([trainer.train_dataset[column][:] for column in ("prompt_ids", "chosen_ids", "rejected_ids")])
    trainer.train()
    assert found[0] == found[1] == found[2]


def test_a_row_that_is_no_pair_is_named(small):
    rows = SFT_ROWS.rename_column("completion", "chosen").add_column("rejected", ["a"] * 7 + [""])
    DiffusionDPOTrainer("tiny", small(DiffusionDPOConfig), rows)
    rows = Dataset.from_list([*rows, {"prompt": "", "chosen": "a", "rejected": "b"}])
    with pytest.raises(ConfigError, match="train_dataset, row 8: the prompt is not a text"):
        DiffusionDPOTrainer("tiny", small(DiffusionDPOConfig), rows)


def test_completions_of_an_evaluation_set_have_to_fit_too(small):
    long = Dataset.from_list([{"prompt": "Count.", "completion": "1 2 3 4 5 6 7 8 9 " * 3}])
    DiffusionSFTTrainer("tiny", small(DiffusionSFTConfig), SFT_ROWS, long)
    with pytest.raises(ConfigError, match="1 of 1 completions are longer"):
        DiffusionSFTTrainer("tiny", small(DiffusionSFTConfig, eval_strategy="steps"), SFT_ROWS, long)


def test_what_an_option_of_sft_cannot_do_is_refused(small):
    for option in ({"assistant_only_loss": True}, {"completion_only_loss": False}, {"eos_token": "[PAD]"}):
        with pytest.raises(ConfigError, match=f"training.{next(iter(option))}="):
            small(DiffusionSFTConfig, **option)
