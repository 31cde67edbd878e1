"""A signal ends a run after its step, with a checkpoint and status 75; resumed, it goes on as if nothing had been."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from endings import assert_same, in_a_child, run
from processes import launch
from transformers import TrainerCallback

from trainers.faults import endings, stopping
from trainers.faults.endings import RunStopped
from trainers.faults.stopping import SIGNALS, StopOnSignal
from trainers.saving.checkpoints import check_checkpoint

NEVER = {"save_strategy": "steps", "save_steps": 100, "lr_scheduler_type": "linear"}


class Send(TrainerCallback):
    """A signal to this process while step ``step`` is under way."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)


def checkpoints(output):
    return sorted(path.name for path in Path(output).glob("checkpoint-*"))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signalled_run_saves_at_the_end_of_its_step_and_resumes_bit_by_bit(make_grpo, tmp_path, number):
    def make(path):
        return make_grpo(output_dir=str(path), max_steps=5, num_iterations=2, **NEVER)

    status, unbroken = run(make, tmp_path / "unbroken")
    status, _ = run(make, tmp_path / "stopped", callbacks=[Send(number, 3)])
    assert status == endings.STATUS
    assert checkpoints(tmp_path / "stopped") == ["checkpoint-3"]
    status, resumed = run(make, tmp_path / "stopped")
    assert status == 0
    assert_same(resumed, unbroken)


def test_message_says_where_and_how_to_go_on_and_handlers_are_put_back(make_sft):
    before = [signal.getsignal(number) for number in SIGNALS]
    trainer = make_sft(max_steps=5, eval_strategy="steps", eval_steps=1, save_strategy="no")
    trainer.add_callback(Send(signal.SIGTERM, 2))
    with pytest.raises(RunStopped) as stopped:
        trainer.train()
    assert stopped.value.code == 75
    for part in ("SIGTERM", "saved step 2", str(trainer.args.output_dir), "--resume_from_checkpoint true"):
        assert part in stopped.value.message
    check_checkpoint(Path(trainer.args.output_dir) / "checkpoint-2")
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated == [1]  # the one of the last step would have kept the checkpoint waiting
    assert [signal.getsignal(number) for number in SIGNALS] == before
    trainer.remove_callback(Send)
    trainer.train()  # another run, which nobody stops
    assert trainer.state.global_step == 5


def test_epoch_that_ends_with_the_stop_saves_once(make_sft, splits, monkeypatch):
    trainer = make_sft(train=splits["train"].select(range(16)), save_strategy="epoch", max_steps=6)
    saved, save = [], trainer._save_checkpoint
    monkeypatch.setattr(
        trainer, "_save_checkpoint", lambda *args: (saved.append(trainer.state.global_step), save(*args))
    )
    trainer.add_callback(Send(signal.SIGTERM, 4))
    with pytest.raises(RunStopped):
        trainer.train()
    assert saved == [2, 4]


@pytest.fixture
def stop(make_sft):
    return StopOnSignal(make_sft().accelerator)


def test_second_sigint_is_at_once_unless_it_is_the_same(stop, monkeypatch):
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # a launcher sends it too
        signal.raise_signal(signal.SIGTERM)  # and a scheduler repeats itself
        stop.agreed = stop.received
    monkeypatch.setattr(stopping, "SAME", 0.0)
    with pytest.raises(KeyboardInterrupt), stop.listening():
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)


def test_signal_after_the_last_step_is_not_swallowed(stop):
    with pytest.raises(KeyboardInterrupt), stop.listening():
        signal.raise_signal(signal.SIGINT)
    with stop.listening():
        pass  # and forgotten afterwards


def test_child_of_a_run_ends_by_the_signal(stop):
    """As a worker of a data loader or of a reward does that its pool terminates."""
    with stop.listening():
        status = in_a_child(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60)))
    assert status == -signal.SIGTERM and not stop.received


def test_all_ranks_stop_for_the_signal_of_one(make_grpo, tmp_path):
    def train():
        trainer = make_grpo(max_steps=5, per_device_train_batch_size=4, **NEVER)
        if trainer.accelerator.process_index == 1:
            trainer.add_callback(Send(signal.SIGUSR1, 2))
        with pytest.raises(RunStopped) as stopped:
            trainer.train()
        return {"message": stopped.value.message, "weights": trainer.model.state_dict()}

    one, two = launch(train, 2, tmp_path)
    assert one["message"] == two["message"] and "SIGUSR1: saved step 2" in one["message"]
    for name, value in one["weights"].items():
        assert torch.equal(two["weights"][name], value), name
    check_checkpoint(tmp_path / "out" / "checkpoint-2")
