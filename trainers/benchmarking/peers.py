"""Generators to compare with, as plain functions, and the interface that any other one can have.

A generator is ``f(model, prompt_ids, config) -> ids``: prompts (B, P) in, completions (B, L) out, or (B, P + L) with
the prompt in front. `llada` and `d1` are restated from their papers without any of our speed-ups: they are what the
field runs, and at temperature 0 they define the text that a fast generator must write.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class RolloutConfig:
    """What a generator is asked for.

    Attributes:
        canvas_length: L, tokens to write.
        block_length: tokens of a block, finished left to right; divides the canvas.
        steps: denoising steps of the whole canvas; a multiple of the number of blocks.
        temperature: of the token distribution; 0 is greedy.
        mask_id: the mask token.
        eos_id: ends a text; what follows it does not count.
        pad_id: left padding of the prompts; not to be attended to.
        seed: of the generator's own randomness.
    """

    canvas_length: int
    block_length: int
    steps: int
    temperature: float
    mask_id: int
    eos_id: int
    pad_id: int
    seed: int


Generator = Callable[[PreTrainedModel, Tensor, RolloutConfig], Tensor]


def llada(model: PreTrainedModel, prompt_ids: Tensor, config: RolloutConfig) -> Tensor:
    """LLaDA's sampler with low-confidence remasking in blocks: Nie et al. 2025, 2502.09992, algorithm 5 and appendix
    B.4; noise and confidences of the whole canvas in float64, as its published `generate` has them."""
    return _low_confidence(model, prompt_ids, config, torch.float64)


def d1(model: PreTrainedModel, prompt_ids: Tensor, config: RolloutConfig) -> Tensor:
    """The rollouts of d1, Zhao et al. 2025, 2504.12216: LLaDA's law, with noise and confidences in the model's
    dtype."""
    return _low_confidence(model, prompt_ids, config, model.dtype)


PEERS: dict[str, Generator] = {"llada": llada, "d1": d1}


@torch.no_grad()
def _low_confidence(model: PreTrainedModel, prompt_ids: Tensor, config: RolloutConfig, dtype: torch.dtype) -> Tensor:
    """Every step predicts the whole sequence and commits the most confident of the current block's masked tokens."""
    batch, prompt_length = prompt_ids.shape
    canvas = torch.full((batch, config.canvas_length), config.mask_id, device=prompt_ids.device)
    x = torch.cat([prompt_ids, canvas], dim=1)
    visible = _attention_mask(prompt_ids, config)
    noise = torch.Generator(x.device).manual_seed(config.seed)
    num_blocks = config.canvas_length // config.block_length
    for block in range(num_blocks):
        stop = prompt_length + (block + 1) * config.block_length
        for count in transfer_counts(config.block_length, config.steps // num_blocks):
            masked = x == config.mask_id
            logits = model(input_ids=x, attention_mask=visible).logits  # (B, P + L, V)
            drawn = _gumbel_max(logits, config.temperature, noise, dtype).argmax(dim=-1)
            probs = torch.softmax(logits.to(dtype), dim=-1)
            confidence = probs.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
            confidence = torch.where(masked, confidence, float("-inf"))
            confidence[:, stop:] = float("-inf")
            chosen = torch.zeros_like(masked)
            for row in range(batch):  # as published
                chosen[row, confidence[row].topk(count).indices] = True
            x = torch.where(chosen & masked, drawn, x)
    return x[:, prompt_length:]


def transfer_counts(tokens: int, steps: int) -> list[int]:
    """Tokens to commit in each step: even shares, the remainder one each in the first steps."""
    share, rest = divmod(tokens, steps)
    return [share + (step < rest) for step in range(steps)]


def _gumbel_max(logits: Tensor, temperature: float, noise: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Scores whose argmax is a draw from softmax(logits / temperature): exp(logits) / (-log u)^temperature."""
    if temperature == 0:
        return logits
    logits = logits.to(dtype)
    u = torch.rand(logits.shape, generator=noise, device=logits.device, dtype=dtype)
    return logits.exp() / (-u.log()) ** temperature


def _attention_mask(prompt_ids: Tensor, config: RolloutConfig) -> Tensor | None:
    """0 on padding; None if there is none, which spares the model the work."""
    prompt_mask = (prompt_ids != config.pad_id).long()
    if bool(prompt_mask.all()):
        return None
    return torch.cat([prompt_mask, prompt_mask.new_ones(len(prompt_ids), config.canvas_length)], dim=1)
