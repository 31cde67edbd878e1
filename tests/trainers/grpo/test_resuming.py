"""A run that is killed and resumed ends with the weights, bit by bit, of the run that was not."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from resumes import SAVING, assert_resumes_bit_by_bit
from trl.trainer.utils import RepeatSampler

from trainers.grpo.resuming import ResumableSampler, RolloutBuffer
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.settings.options import ConfigError

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    ("step", "when", "options"),
    [
        (2, "begin", {"num_iterations": 2}),  # between two rollouts
        (3, "begin", {"num_iterations": 2}),  # between two iterations over one rollout
        (3, "substep", {"num_iterations": 2, "gradient_accumulation_steps": 2}),  # inside an update
        (
            1,
            "begin",
            {"steps_per_generation": 4, "per_device_train_batch_size": 4},
        ),  # inside a rollout's micro-batches
        (3, "begin", {"num_iterations": 2, "nelbo_source": "forward", "p_mask_prompt": 0.3, "beta": 0.1}),
        (3, "begin", {"num_iterations": 2, "eval_strategy": "steps", "eval_steps": 1}),
        # of all estimators this one draws most, and the batch carries it through the checkpoint
        (3, "begin", {"num_iterations": 2, "likelihood": "selection_replay", "selection": "low_confidence"}),
    ],
    ids=str,
)
def test_killed_run_resumes_bit_by_bit(make_grpo, tmp_path, step, when, options):
    def make(path):
        return make_grpo(output_dir=str(path), max_steps=5, **SAVING, **options)

    assert_resumes_bit_by_bit(make, tmp_path, step, when)


def test_killed_lora_run_resumes_bit_by_bit(make_grpo, tmp_path):
    def make(path):
        options = {"max_steps": 5, "num_iterations": 2, "beta": 0.1, **SAVING}
        torch.manual_seed(0)  # of the adapter's own fresh weights
        return make_grpo(output_dir=str(path), peft_config=LORA, **options)

    assert_resumes_bit_by_bit(make, tmp_path, 3)


def test_killed_sft_run_resumes_bit_by_bit(make_sft, tmp_path):
    def make(path):
        return make_sft(output_dir=str(path), max_steps=5, gradient_accumulation_steps=2, **SAVING)

    assert_resumes_bit_by_bit(make, tmp_path, 3, "substep")


class Short(ImprovedDiffuGRPOTrainer):
    """Trains on 6 problems: 3 rollouts of 2 prompts are an epoch."""

    def __init__(self, policy, rewards, args, train, evaluation, **kwargs):
        super().__init__(policy, rewards, args, train.select(range(6)), evaluation, **kwargs)


@pytest.mark.parametrize("step", [3, 4])
def test_run_resumed_after_the_end_of_an_epoch_meets_the_prompts_of_the_unbroken_run(make_grpo, tmp_path, step):
    def make(path):
        return make_grpo(cls=Short, output_dir=str(path), max_steps=7, **SAVING)

    assert_resumes_bit_by_bit(make, tmp_path, step)


def test_sampler_keeps_trls_own_order_in_every_epoch():
    trls, ours = (RepeatSampler(range(10), 2, batch_size=5, seed=3) for _ in range(2))
    epoch = iter(range(3))
    wrapped = ResumableSampler(ours, lambda: next(epoch))
    orders = [list(trls) for _ in range(3)]
    assert [list(wrapped) for _ in range(3)] == orders
    assert orders[0] != orders[1] and len(wrapped) == len(orders[0])


def test_unbroken_run_meets_the_prompts_in_trls_own_order(make_grpo, splits):
    met = []

    def watch(prompts, completions, **kwargs):
        met.extend(prompts[::4])
        return [float(len(text)) for text in completions]

    make_grpo(cls=Short, reward=watch, max_steps=6).train()
    trls = RepeatSampler(range(6), 4, batch_size=2, seed=0)
    assert met == [splits["train"][i]["prompt"] for _ in range(2) for i in list(trls)[::4]]


def test_checkpoint_without_the_rollout_buffer_is_not_resumed(make_grpo, tmp_path):
    make_grpo(max_steps=1, num_iterations=2, **SAVING).train()
    checkpoint = Path(tmp_path / "out" / "checkpoint-1")
    (checkpoint / "rollout_state_0.pt").unlink()
    with pytest.raises(ConfigError, match=r"checkpoint-1 has no rollout_state_0\.pt"):
        make_grpo(max_steps=2, num_iterations=2, **SAVING).train(resume_from_checkpoint=str(checkpoint))


def test_the_rollout_buffer_comes_back_as_it_was_and_each_process_has_its_own(tmp_path):
    buffers = [RolloutBuffer(7 + rank, 30, [{"ids": torch.full((2, 3), rank)}] * 2) for rank in range(2)]
    for rank, buffer in enumerate(buffers):
        buffer.save(tmp_path, rank)
    for rank, buffer in enumerate(buffers):
        found = RolloutBuffer.load(tmp_path, rank, torch.device("cpu"))
        assert (found.step, found.tokens, len(found.buffered_inputs)) == (7 + rank, 30, 2)
        assert torch.equal(found.buffered_inputs[1]["ids"], buffer.buffered_inputs[1]["ids"])
    with pytest.raises(ConfigError, match=r"no rollout_state_2\.pt"):
        RolloutBuffer.load(tmp_path, 2, torch.device("cpu"))
