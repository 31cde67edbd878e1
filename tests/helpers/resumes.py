"""A run that is killed and resumed must go on bit by bit."""

import multiprocessing
import os
import signal

import torch
from transformers import TrainerCallback

from trainers.saving.checkpoints import checkpoint_to_resume

SAVING = {"save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "linear"}


class KillAtStep(TrainerCallback):
    """SIGKILL, as a scheduler or the out-of-memory killer sends it: nothing is flushed and no handler runs."""

    def __init__(self, step: int, when: str):
        self.step, self.when = step, when

    def _kill(self, state, when):
        if state.global_step == self.step and self.when == when:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_begin(self, args, state, control, **kwargs):
        self._kill(state, "begin")

    def on_substep_end(self, args, state, control, **kwargs):
        self._kill(state, "substep")


def die_in_a_child(make, step, when):
    """Train in a forked process until it kills itself after ``step`` updates."""

    def train():
        trainer = make()
        trainer.add_callback(KillAtStep(step, when))
        trainer.train()

    child = multiprocessing.get_context("fork").Process(target=train)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_resumes_bit_by_bit(make, output, step, when="begin"):
    unbroken = make(output / "unbroken")
    unbroken.train()
    die_in_a_child(lambda: make(output / "killed"), step, when)

    checkpoint = checkpoint_to_resume("true", str(output / "killed"))
    assert checkpoint.name == f"checkpoint-{step}"
    torch.manual_seed(12345)  # a new process does not start in the old one's random state
    resumed = make(output / "killed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    expected, found = weights(unbroken), weights(resumed)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    logs = [
        [entry.get(key) for entry in t.state.log_history] for t in (unbroken, resumed) for key in ("loss", "nelbo")
    ]
    assert logs[:2] == logs[2:]
    start = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert start["state"], "the optimizer had moments to restore"
