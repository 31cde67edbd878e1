"""The public model files train as they are: SFT, GRPO whole and by an adapter, a resumed run, a saved model."""

import pytest
import torch
from real_models import real_models
from resumes import SAVING, weights
from watching import digit_reward

from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.models.adapters import lora_config
from trainers.models.loading import load_policy
from trainers.settings.model import ModelArguments

CANVAS = 16
FAMILY = ("llada", "llada_moe", "dream", "sdar", "sdar_moe", "trado", "llada2", "llada21", "a2d_qwen3")


def loaded(path, real, **more):
    arguments = ModelArguments(str(path), trust_remote_code=True, code="remote", **more)
    return load_policy(arguments, block_length=real.block_length)


def blocks(real):
    own = {} if real.block_length is None else {"block_length": real.block_length}
    return own | {"max_completion_length": CANVAS, "max_timesteps": 8, "learning_rate": 1e-3}


@pytest.fixture
def train(make_sft, grpo_args, splits, tmp_path):
    """Three steps by one of the methods, on a policy."""

    def run(method, real, policy, resume=None, **options):
        torch.manual_seed(0)  # of a fresh adapter
        adapter = lora_config(ModelArguments(use_peft=method == "adapter"), policy.model)
        options = blocks(real) | {"max_steps": 3, "output_dir": str(tmp_path / method)} | options
        if method == "sft":
            short = splits["train"].filter(lambda row: len(policy.tokenizer(row["completion"])["input_ids"]) < CANVAS)
            trainer = make_sft(policy=policy, train=short, eval_strategy="no", **options)
        else:
            args = grpo_args(beta=0.1, **options)
            trainer = ImprovedDiffuGRPOTrainer(
                policy, [digit_reward], args, splits["train"], splits["validation"], peft_config=adapter
            )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


@pytest.mark.parametrize("method", ["sft", "grpo", "adapter"])
@real_models(*FAMILY)
def test_a_file_trains_is_saved_and_reloaded(real, method, train, tmp_path):
    trainer = train(method, real, loaded(real.path, real))
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(norms) == 3 and 0 < max(norms) < float("inf"), norms
    trainer.save_model(str(tmp_path / "saved"))
    again = loaded(tmp_path / "saved", real, use_peft=method == "adapter")
    for (name, value), (other, same) in zip(weights(trainer).items(), again.model.state_dict().items(), strict=True):
        if ".ref." not in name and ".ref." not in other:  # the frozen copy of an adapter
            assert torch.equal(value, same), (name, other)


@real_models(*FAMILY)
def test_a_run_on_a_file_is_resumed_bit_by_bit(real, train, tmp_path):
    whole = train("grpo", real, loaded(real.path, real), **SAVING)
    checkpoint = tmp_path / "grpo" / "checkpoint-2"
    resumed = train("grpo", real, loaded(real.path, real), resume=str(checkpoint), **SAVING)
    expected, found = weights(whole), weights(resumed)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


@real_models("llada", "dream", "sdar", "trado", "llada2")
def test_activations_that_are_computed_again_give_the_same_update(real, train, tmp_path):
    """Also where a forward runs as in eval, in the first pass and in the second."""
    found = []
    for again in (False, True):
        options = {"max_steps": 1, "gradient_checkpointing": again, "output_dir": str(tmp_path / str(again))}
        found.append(weights(train("sft", real, loaded(real.path, real), **options)))
    assert all(torch.allclose(value, found[1][name], atol=1e-5) for name, value in found[0].items())
    before = loaded(real.path, real).model.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in found[0].items())
