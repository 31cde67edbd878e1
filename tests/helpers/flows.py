"""Small denoisers of embeddings, three rows of text, and the loss of a flow on them: what tests of the flow share."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import rng

from core.alpha_schedule import AlphaSchedule
from core.denoisers import EmbeddingDenoiser, ModelDenoiser
from core.flow.loss import FlowEstimate, FlowMatchingLoss
from core.flow.path import FlowDraws
from core.flow.solvers import ODE_SOLVERS
from core.masking_strategy import DiffusionMaskingStrategy

V, MASK, D, L, P, T = 6, 5, 8, 6, 3, 8
EOS = 2
every_solver = pytest.mark.parametrize("solver", ODE_SOLVERS)
EVALUATIONS = {"euler": 1, "dpm": 1, "unipc": 1, "rk4": 4}  # a step
DATA = torch.tensor([[0, 4, 1, 3, 2, 2], [3, 3, 0, 1, 4, 2], [1, 0, 4, 4, 2, 2]])
PROMPTS = torch.tensor([[4, 1, 0], [2, 3, 4], [0, 0, 1]])  # the first one starts with padding
PROMPT_MASK = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1]])
SCHEDULE = AlphaSchedule(max_timesteps=T)

# Three rows, two states each, with walks of 0 to 5 timesteps.
TIMESTEP, SOURCE = [[4, 6], [2, 8], [7, 3]], torch.tensor([[6, 6], [7, 8], [9, 3]])
MOVED = torch.tensor([[True, False], [True, False], [True, False]])


class RandomFlow(EmbeddingDenoiser):
    """A smooth random function of all attended embeddings, with one weight to differentiate by. Keeps its inputs."""

    def __init__(self, sharpness: float = 2.0):
        self.mask_id = MASK
        table = torch.randn(V, D, generator=rng(1))
        self.table = table / table.square().mean(dim=1, keepdim=True).sqrt()
        self.mix = torch.randn(D, D, generator=rng(2)) / D**0.5
        self.weight = torch.tensor(sharpness, requires_grad=True)
        self.seen: list[tuple[Tensor, Tensor, bool]] = []  # embeddings, attention mask, gradient

    def logits(self, ids: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        return self.logits_from_embeddings(self.table[ids], attention_mask, rows)

    def embedding_table(self) -> Tensor:
        return self.table

    def logits_from_embeddings(self, embeddings: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        self.seen.append((embeddings, attention_mask, torch.is_grad_enabled()))
        attended = embeddings * attention_mask.unsqueeze(-1)
        hidden = embeddings + torch.tanh(attended.mean(dim=1, keepdim=True) @ self.mix)
        logits = (self.weight * hidden @ self.table.T / D)[rows]
        return logits.masked_fill(torch.arange(V) == MASK, float("-inf"))


class Oracle(RandomFlow):
    """Knows the one text that there is."""

    def __init__(self, text: Tensor):
        super().__init__()
        self.text = text

    def logits_from_embeddings(self, embeddings: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        super().logits_from_embeddings(embeddings, attention_mask, rows)
        certain = 1e4 * nn.functional.one_hot(self.text, V).float()
        return certain.repeat(embeddings.size(0), 1)


def draws_of(loss: FlowMatchingLoss, p_mask_prompt: float = 0.3, rows: int = 3, seed: int = 0) -> FlowDraws:
    masking = DiffusionMaskingStrategy(p_mask_prompt, loss.schedule.max_timesteps)
    return loss.draw(masking, rows, L, P, D, rng(seed))


def score(
    denoiser: EmbeddingDenoiser,
    loss: FlowMatchingLoss,
    draws: FlowDraws,
    source: Tensor | None = None,
    rows: slice = slice(None),
    ids: Tensor = DATA,
    **options,
) -> FlowEstimate:
    draws = replace(draws, **{name: value[rows] for name, value in vars(draws).items()})
    source = None if source is None else source[rows]
    return loss.score(denoiser, PROMPTS[rows], PROMPT_MASK[rows], ids[rows], draws, source, **options)


def at(timestep: list[list[int]], seed: int = 0) -> tuple[FlowMatchingLoss, FlowDraws]:
    """A loss and draws at given timesteps."""
    loss = FlowMatchingLoss(SCHEDULE, num_draws=len(timestep[0]), noise_scale=0.7)
    return loss, replace(draws_of(loss, seed=seed), timestep=torch.tensor(timestep))


def small_denoiser(**options) -> ModelDenoiser:
    model = SmallModel(**options)
    return ModelDenoiser(model, MASK, model.head, embedding=model.embedding)


class SmallModel(nn.Module):
    """One transformer layer on embeddings, with dropout; keeps the mode and the dtype of each forward."""

    def __init__(self, width: int = 32, dropout: float = 0.0):
        super().__init__()
        self.embedding = nn.Embedding(V, width)
        self.position = nn.Parameter(torch.zeros(P + L, width))
        self.body = nn.TransformerEncoderLayer(width, 2, 64, dropout, batch_first=True)
        self.head = nn.Linear(width, V)
        for parameter, seed in zip(self.parameters(), range(100), strict=False):
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=parameter.size(-1) ** -0.5, generator=rng(seed))
        self.modes: list[bool] = []

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor):
        self.modes.append(self.training)
        logits = self.head(self.body(inputs_embeds + self.position, src_key_padding_mask=attention_mask == 0))
        return Trained(logits)


class Trained:
    def __init__(self, logits: Tensor):
        self.logits = logits
