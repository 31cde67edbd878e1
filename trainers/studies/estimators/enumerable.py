"""A task and a model small enough to enumerate: sums and products whose answers fit a canvas of a few tokens.

The prompt is like ``37+5=``; the answer is its digits, then the end sign up to the length of the canvas. The end sign
is an ordinary token: it has to be predicted at every place that it fills, and does not stop the sampler. Only digits
and the end sign can be generated, so the law of the sampler is over 11^L canvases.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from core.denoisers import Denoiser, ModelDenoiser
from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from trainers.distributed.randomness import generator_at

SYMBOLS = "0123456789.+*=_"  # token ids in this order: the digits, the end sign, what only prompts hold, the mask
END, MASK = SYMBOLS.index("."), SYMBOLS.index("_")
ANSWER_TOKENS = torch.arange(END + 1)
LONGEST = 8  # tokens of a canvas: its states are enumerated, 2^L for every completion
LARGEST = 99  # of the first number; the second has one digit
DIGIT_CREDIT = 0.2  # share of the reward that goes by places; the rest is for the answer as a whole

# Trained in seconds; a gradient through all states of a canvas of 4 takes a few.
SHAPE = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def encode(texts: list[str]) -> Int[Tensor, "B N"]:
    """Token ids of texts of equal length."""
    return torch.tensor([[SYMBOLS.index(symbol) for symbol in text] for text in texts])


def problems(length: int) -> tuple[Int[Tensor, "B P"], Int[Tensor, "B L"]]:
    """All prompts whose answer and one end sign fit a canvas, and the canvases of the answers.

    Raises:
        ValueError: a canvas that holds no answer.
    """
    asked, answers = [], []
    for first in range(LARGEST + 1):
        for second in range(10):
            for sign, value in (("+", first + second), ("*", first * second)):
                if len(str(value)) < length:
                    asked.append(f"{first:02d}{sign}{second}=")
                    answers.append(str(value).ljust(length, "."))
    if not asked:
        raise ValueError(f"--length {length}: a canvas needs room for a digit and an end sign, at least 2")
    return encode(asked), encode(answers)


def rewards(completions: Int[Tensor, "B L"], answer: Int[Tensor, "B L"] | Int[Tensor, " L"]) -> Float[Tensor, " B"]:
    """1 for the right canvas, else a little for each place that is right, float64."""
    right = (completions == answer).double()
    return DIGIT_CREDIT * right.mean(dim=1) + (1 - DIGIT_CREDIT) * right.prod(dim=1)


class AnswerDenoiser(ModelDenoiser):
    """A model that generates digits and end signs only."""

    # its log-probabilities are those of its logits, whatever the head says of other symbols
    token_logps = Denoiser.token_logps

    def _logits(self, inputs: dict[str, Any], rows: Tensor) -> Float[Tensor, "R V"]:
        logits = super()._logits(inputs, rows)
        return logits.masked_fill(torch.arange(logits.size(1)) > END, float("-inf"))


def build_model(seed: int) -> LlamaForCausalLM:
    """A small bidirectional Llama with fresh weights that depend on the seed alone."""
    settings: dict[str, Any] = SHAPE | {
        "vocab_size": len(SYMBOLS),
        "max_position_embeddings": 64,
        "is_causal": False,
        "use_cache": False,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
    }
    model = LlamaForCausalLM(LlamaConfig(**settings))
    generator = generator_at(seed, "weights")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # the others scale norms and start at 1
                parameter.normal_(0.0, parameter.size(1) ** -0.5, generator=generator)
    return model.eval()  # nothing in it behaves otherwise in training


@dataclass(frozen=True)
class Fit:
    """How training ended: the bound on the last batches, nats a completion."""

    steps: int
    nelbo: float


def fit(
    denoiser: AnswerDenoiser,
    masking: DiffusionMaskingStrategy,
    length: int,
    steps: int,
    seed: int,
    batch_size: int = 128,
) -> Fit:
    """Train on all problems by the masked-diffusion bound (fresh masks on the sampler's schedule), AdamW."""
    prompts, answers = problems(length)
    generator = generator_at(seed, "training")
    loss = TrajectoryNELBOLoss(**masking.schedule.params, source="forward", num_draws=1)
    masking.schedule = loss.schedule
    optimiser = torch.optim.AdamW(denoiser.model.parameters(), lr=3e-3, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    last = []
    for _ in range(steps):
        rows = torch.randint(len(prompts), (batch_size,), generator=generator)
        asked = prompts[rows]
        bound = loss(denoiser, masking, asked, torch.ones_like(asked), answers[rows], generator).sequence_bound.mean()
        optimiser.zero_grad()
        bound.backward()
        optimiser.step()
        decay.step()
        last = [*last[-49:], bound.item()]
    return Fit(steps, sum(last) / max(len(last), 1))


def choose_problems(
    generator: DiffusionGenerator, count: int, seed: int, samples: int = 8
) -> tuple[Int[Tensor, "Q P"], Int[Tensor, "Q L"], float]:
    """The problems that are solved nearest to half the time, where policy gradients are, and the accuracy on all.

    Raises:
        ValueError: more problems than there are.
    """
    prompts, answers = problems(generator.canvas_length)
    if count > len(prompts):
        raise ValueError(f"--problems {count}: expected at most {len(prompts)}")
    asked = prompts.repeat_interleave(samples, dim=0)
    drawn = generator.generate(asked, torch.ones_like(asked), generator_at(seed, "choice")).ids
    right = (drawn == answers.repeat_interleave(samples, dim=0)).all(dim=1).double().view(-1, samples).mean(dim=1)
    # in a drawn order, so that ties are not all of one kind of problem
    order = torch.randperm(len(prompts), generator=generator_at(seed, "order"))
    chosen = order[(right[order] - 0.5).abs().argsort(stable=True)[:count]]
    return prompts[chosen], answers[chosen], right.mean().item()
