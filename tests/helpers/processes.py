"""Training in this process or in forked ones, and what came of it."""

import math

import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState, GradientState

from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer

# not entropy: TRL averages it over tokens on each process first, and processes differ in how many they have
METRICS = ("loss", "grad_norm", "nelbo", "nelbo_standard_error", "kl", "reward", "ratio_log_max")


def launch(function, processes, path):
    """What ``function()`` returns in each of so many processes: numbers, tensors and lists of them."""

    def run():
        AcceleratorState._reset_state(reset_partial_state=True)  # the parent's says: one process
        GradientState._reset_state()
        found = function()
        torch.save(found, path / f"{processes}-{AcceleratorState().process_index}.pt")

    debug_launcher(run, num_processes=processes)
    return [torch.load(path / f"{processes}-{rank}.pt", weights_only=True) for rank in range(processes)]


def record(trainer):
    """Metrics by step, full weights and, of GRPO, the last rollout."""
    logs = [{key: entry[key] for key in METRICS if key in entry} for entry in trainer.state.log_history[:-1]]
    found = {"logs": logs, "weights": trainer.accelerator.get_state_dict(trainer.model)}
    if isinstance(trainer, ImprovedDiffuGRPOTrainer):
        found["rollout"] = [row for batch in trainer._buffered_inputs for row in rows_of(batch)]
    return found


def rows_of(batch):
    """Each row of a GRPO batch as lists: completion, masks of its states, what they show, masks of its prompt. Without
    padding, which is that of other rows: states that score nothing, and what is left of the prompt."""
    rows = []
    for i, canvas in enumerate(batch["canvas_ids"]):
        hidden = batch["draws/hidden"][i].flatten(0, 1)
        some = batch["draws/scored"][i].flatten(0, 1).any(dim=1)
        prompt = batch["draws/prompt_hidden"][i].flatten(0, 1)[some][:, batch["prompt_mask"][i].bool()]
        shown = batch["draws/shown"][i].tolist() if "draws/shown" in batch else []
        rows.append([canvas.tolist(), hidden[some].tolist(), shown, prompt.tolist()])
    return rows


def train_and_save(make, processes, path):
    """The `record` of each process after training with ``make(rows of a process)``."""

    def train():
        trainer = make(8 // processes)
        assert trainer.accelerator.num_processes == processes
        trainer.train()
        return record(trainer)

    return launch(train, processes, path)


PLAIN = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1}  # Adam divides rounding errors by their own size


def agree(one, ranks, metrics=METRICS):
    """FSDP2 sums gradients of halves of the batch, and samples on weights that were gathered: rounding, no more."""
    for rank in ranks:
        for expected, found in zip(one["logs"], rank["logs"], strict=True):
            for name in set(expected) & set(metrics):
                assert found[name] == pytest.approx(expected[name], abs=2e-5, rel=1e-4), name
    for name, value in one["weights"].items():  # accelerate gives the full weights to the first process alone
        assert torch.allclose(ranks[0]["weights"][name], value, atol=2e-6), name
    assert all(math.isfinite(value) for entry in one["logs"] for value in entry.values())
