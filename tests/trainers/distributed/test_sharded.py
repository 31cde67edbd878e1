"""FSDP2 on two processes does what one process does: equal losses, equal weights, and files that anyone can read."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import PeftModel
from processes import PLAIN, agree, launch, record, train_and_save
from torch.distributed.tensor import DTensor
from watching import LORA

from core.masking_strategy import sync_masking_with_nelbo
from trainers.distributed.sharding import ShardedTrainer
from trainers.evaluating.evaluation import Evaluator
from trainers.evaluating.together import evaluate_together
from trainers.models.policy import Calling
from trainers.settings.objects import build_likelihood, build_masking
from trainers.settings.options import ConfigError
from trainers.settings.spreading import ZERO3
from trainers.tasks import gsm8k


@pytest.mark.parametrize(
    "options",
    [
        # the sampler takes other numbers of forwards on each process
        {"sampler": "confidence", "threshold": 0.3, "beta": 0.1, "num_iterations": 2, "gradient_checkpointing": True},
        {"peft_config": LORA, "beta": 0.1, "learning_rate": 1.0},
    ],
    ids=["full weights", "lora"],
)
def test_sharded_grpo_trains_as_one_process(make_grpo, make_policy, tmp_path, options):
    def make(rows):
        sharded = {"fsdp": True} if rows < 8 else {}
        policy = make_policy(layers=2)
        return make_grpo(policy=policy, per_device_train_batch_size=rows, **sharded, **(PLAIN | options))

    (one,), two = (train_and_save(make, processes, tmp_path) for processes in (1, 2))
    agree(one, two)


def test_sharded_sft_trains_as_one_process(make_sft, make_policy, tmp_path):
    """With walks, which take different numbers of forwards on each process."""
    walks = {"scheduled_sampling_max_step_offset": 5, "scheduled_sampling_probability": 0.5}

    def make(rows):
        options = {"fsdp": True} if rows < 8 else {}
        options |= PLAIN | walks
        return make_sft(policy=make_policy(layers=2), per_device_train_batch_size=rows, **options)

    (one,), two = (train_and_save(make, processes, tmp_path) for processes in (1, 2))
    agree(one, two, ("loss", "grad_norm"))


@pytest.mark.parametrize("peft", [None, LORA], ids=["full weights", "lora"])
def test_what_sharded_training_saves_is_whole_and_goes_on_bit_by_bit(
    make_grpo, make_policy, tokenizer, splits, tmp_path, peft
):
    options = {"fsdp": True, "max_steps": 4, "num_iterations": 2, "beta": 0.1}
    options |= {"save_strategy": "steps", "save_steps": 3}

    def make(output):
        policy = make_policy(layers=2)
        return make_grpo(policy=policy, peft_config=peft, output_dir=str(output), **options)

    def train():
        trainer = make(tmp_path / "whole")
        trainer.train()
        trainer.save_model(str(tmp_path / "model"))
        evaluator = Evaluator(trainer.args, trainer.schedule, trainer.masking_strategy, gsm8k, splits["test"], 0, 8)
        together = evaluate_together(trainer, evaluator)
        found = record(trainer)
        found["answers"] = {name: evaluation.completions for name, evaluation in together.items()}
        found["parts"] = all(isinstance(p, DTensor) for p in trainer.model.parameters())
        return found

    def resume():
        trainer = make(tmp_path / "again")
        trainer.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))
        return record(trainer)

    first, second = launch(train, 2, tmp_path)
    assert first["parts"] and second["parts"]
    resumed, _ = launch(resume, 2, tmp_path)
    assert resumed["weights"].keys() == first["weights"].keys() and first["logs"] == second["logs"]
    assert all(torch.equal(resumed["weights"][name], value) for name, value in first["weights"].items())
    policy = make_policy(layers=2)
    if peft is None:
        saved = type(policy.model).from_pretrained(tmp_path / "model")
        assert all(torch.equal(value, first["weights"][name]) for name, value in saved.state_dict().items())
    else:
        saved = PeftModel.from_pretrained(policy.model, tmp_path / "model")
        trained = {name: value for name, value in saved.state_dict().items() if "lora_" in name}
        assert trained and all(torch.equal(value, first["weights"][name]) for name, value in trained.items())
    assert "GRPO" in (tmp_path / "model/README.md").read_text()
    # what two processes answered together is what one answers with the saved model
    assert first["answers"] == second["answers"]
    args = make_grpo(max_steps=1).args
    likelihood, masking = build_likelihood(args, None), build_masking(args)
    schedule = sync_masking_with_nelbo(masking, likelihood)
    alone = Evaluator(args, schedule, masking, gsm8k, splits["test"], 0, 8).both(replace(policy, model=saved.eval()))
    assert {name: evaluation.completions for name, evaluation in alone.items()} == first["answers"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"states_per_forward": 2}, "loss.states_per_forward=2: expected unset under FSDP"),
        ({"compile_rollouts": True}, "generation.compile=True: expected false under FSDP"),
        ({"memory_budget_gib": 1.0}, "loss.memory_budget_gib=1.0: expected unset under FSDP"),
        ({"ds3_gather_for_generation": False}, "training.ds3_gather_for_generation=False: expected true under FSDP"),
        ({"beta": 0.1, "sync_ref_model": True}, "training.sync_ref_model=True: expected false under FSDP"),
        ({"fsdp_config": {"version": 1}}, "expected version 2"),
        ({"unpadded": True}, "it ignores attention masks"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_would_hang_is_refused(make_grpo, make_policy, options, said, monkeypatch):
    """Before any process waits for another: here there is but one, which claims to be sharded."""
    monkeypatch.setattr(ShardedTrainer, "strategy", property(lambda trainer: ZERO3))
    policy = make_policy()
    if options.pop("unpadded", False):
        policy = replace(policy, calling=Calling(padding="none"))
    if "fsdp_config" in options:
        plugin = SimpleNamespace(fsdp_version=1, activation_checkpointing=False)
        monkeypatch.setattr(AcceleratorState, "fsdp_plugin", plugin, raising=False)
        options = {}
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_grpo(policy=policy, **options)


def test_sft_walks_are_refused_where_weights_cannot_be_kept_whole_for_a_backward(make_sft, monkeypatch):
    """DeepSpeed ZeRO-3: neither DDP nor FSDP2, and in parts."""
    monkeypatch.setattr(ShardedTrainer, "strategy", property(lambda trainer: ZERO3))
    make_sft()
    with pytest.raises(ConfigError, match="max_step_offset=5: expected 0 under DeepSpeed"):
        make_sft(scheduled_sampling_max_step_offset=5, scheduled_sampling_probability=0.5)
