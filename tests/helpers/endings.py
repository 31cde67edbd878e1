"""Runs in forked children, how they end, and whether two ended bit by bit alike."""

import multiprocessing
import random

import torch

from trainers.saving.checkpoints import checkpoint_to_resume

CLOCK = ("time", "seconds", "per_second")  # parts of the names of what no two runs log alike


def in_a_child(work):
    """``work`` in a fork, which needs no imports; its exit code."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    return child.exitcode


def run(make, output, prepare=lambda: [], callbacks=()):
    """Train in a child, from the last whole checkpoint or the beginning; its exit code, and how it ended.

    ``prepare`` is called in the child first; what it returns is recorded at the end as ``moments``.
    """

    def train():
        checkpoint = checkpoint_to_resume("auto", str(output))
        torch.manual_seed(random.SystemRandom().randrange(2**31))  # a new process starts in no known random state
        met = prepare()
        trainer = make(output)
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        record = {
            "weights": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict()["state"],
            "logs": [{k: v for k, v in entry.items() if not any(c in k for c in CLOCK)} for entry in logs],
            "moments": list(met),
        }
        torch.save(record, output / "record.pt")

    output.mkdir(exist_ok=True)
    status = in_a_child(train)
    return status, torch.load(output / "record.pt", weights_only=True) if status == 0 else None


def assert_same(found, expected):
    assert found["logs"] == expected["logs"]
    assert found["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        assert torch.equal(found["weights"][name], value), name
    assert found["optimizer"].keys() == expected["optimizer"].keys()
    for index, state in expected["optimizer"].items():
        for name, value in state.items():
            assert torch.equal(found["optimizer"][index][name], value), (index, name)
