"""GRPO under observation: a trainer that keeps what it saw, and losses and gradients outside of a training loop."""

import torch
from peft import LoraConfig

from core.scoring import Draws, by_sign
from trainers.grpo.states import DRAWS
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.tasks.verdicts import text_of

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
# 4 micro-batches of 4 rows a rollout, 2 micro-batches an update, every rollout used twice
REUSED = {
    "per_device_train_batch_size": 4,
    "steps_per_generation": 4,
    "gradient_accumulation_steps": 2,
    "num_iterations": 2,
}


def digit_reward(completions, **kwargs):
    """Share of digits among the characters; random weights give it spread."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in map(text_of, completions)]


def share_of_sevens(completions, **kwargs):
    """A reward that a few updates raise."""
    return [text.count("7") / 14 for text in completions]


class Watching(ImprovedDiffuGRPOTrainer):
    """Keeps every rollout, the inputs of every loss and the log-probs in it."""

    def __init__(self, *args, **kwargs):
        self.trajectories, self.micro_batches, self.batches = [], [], []
        super().__init__(*args, **kwargs)
        complete = self.roller.complete
        self.roller.complete = lambda *args: self.trajectories.append(complete(*args)) or self.trajectories[-1]

    def _generate_and_score_completions(self, inputs):
        self.batches.append(super()._generate_and_score_completions(inputs))
        return self.batches[-1]

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._scored = result[0].detach()
        return result

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        iteration = (self._step // self.args.steps_per_generation) % self.num_iterations if model.training else 0
        seen = {"inputs": inputs, "iteration": iteration, "loss": loss.detach(), "current": self._scored}
        seen |= {
            k: by_sign(inputs[f"{k}_per_token_logps"][:, iteration], inputs["advantages"])
            for k in ("old", "ref")
            if f"{k}_per_token_logps" in inputs
        }
        self.micro_batches.append(seen)
        return loss


def rows_of(trainer, count, start=0):
    """``count`` rows of the training set, each prompt repeated as trl repeats it."""
    groups = count // trainer.num_generations
    return [trainer.train_dataset[start + i] for i in range(groups) for _ in range(trainer.num_generations)]


def rollout_of(trainer, count=8):
    """One generated and scored batch, outside of a training loop."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer._generate_and_score_completions(rows_of(trainer, count))


def nudge(model, size=0.05, seed=0):
    """Move all weights a little, as an update would."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=noise)


def draws_of(inputs, iteration=0):
    """The states of one iteration in TRL's batch."""
    return Draws.from_dict(inputs, DRAWS).iteration(iteration)


def estimate_of(trainer, inputs, draws):
    """What the policy says of a batch on some states."""
    prompts = inputs["prompt_ids"], inputs["prompt_mask"]
    return trainer.scorer.estimate(trainer.model, prompts, inputs["canvas_ids"], draws)


def loss_and_gradient(trainer, inputs):
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def take(inputs, rows):
    return {key: value[rows] if value.ndim else value for key, value in inputs.items()}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def look_at(policy):
    """What a denoiser does once for a model, before forwards are counted."""
    ids = torch.zeros(1, 2, dtype=torch.int64)
    policy.denoiser().token_logps(ids, None, ids == 0, ids[0] + 1, 1.0)
