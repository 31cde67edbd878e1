"""Denoisers small enough to enumerate, and the two ways in which the tests here compare numbers with chance.

Tokens 0..V-1 are real and V is the mask. `VOCABULARY` is 3 and canvases hold 3 or 4 tokens, so a law over all
completions is a table of 27 or 81 numbers.
"""

import itertools
import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from core.alpha_schedule import AlphaSchedule
from core.denoisers import Denoiser
from core.generator import DiffusionGenerator
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss

VOCABULARY = 3
MASK = VOCABULARY
PROMPT = torch.tensor([1, 2])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TableDenoiser(Denoiser):
    """Logits that depend on every visible token and on the position, by a fixed random two-layer sum.

    Args:
        mask_id: V; the tokens are 0..V-1.
        sharpness: standard deviation of the logits, roughly.
        width: longest prompt plus canvas.
        seed: with 186 no token is nearly certain on an empty canvas, so the tests see the whole law.
    """

    def __init__(self, mask_id: int = MASK, sharpness: float = 1.5, width: int = 40, seed: int = 186):
        self.mask_id = mask_id
        noise = rng(seed)
        self.token = torch.randn(width, mask_id + 1, 8, generator=noise)
        self.position = torch.randn(width, 8, mask_id + 1, generator=noise) * sharpness / 8**0.5
        self.rows_seen: list[int] = []
        self.attention_seen: list[Tensor | None] = []
        self.last_states = None

    def logits(self, ids: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        self.rows_seen.append(ids.size(0))
        self.attention_seen.append(attention_mask)
        self.last_states = ids
        where = torch.arange(ids.size(1))
        values = self.token[where, ids]  # (B, N, 8)
        if attention_mask is not None:
            values = values * attention_mask.unsqueeze(-1)
        state = torch.tanh(values.sum(dim=1))  # (B, 8)
        row, column = rows.nonzero(as_tuple=True)
        logits = torch.einsum("rd,rdv->rv", state[row], self.position[column])
        logits[:, self.mask_id] = float("-inf")
        return logits


class BlockTable(TableDenoiser):
    """`TableDenoiser` that follows a rule: each position's logits depend on the tokens that it sees."""

    block_length = 3

    def logits(self, ids, attention_mask, rows, position_ids=None):
        self.rows_seen.append(ids.size(0))
        where = torch.arange(ids.size(1)).expand_as(ids) if position_ids is None else position_ids
        visible = torch.ones(1, ids.size(1), ids.size(1)) if attention_mask is None else attention_mask.float()
        state = torch.tanh(visible @ self.token[where, ids])  # (B, N, 8)
        row, column = rows.nonzero(as_tuple=True)
        logits = torch.einsum("rd,rdv->rv", state[row, column], self.position[where[row, column]])
        logits[:, self.mask_id] = float("-inf")
        return logits


class ConstantDenoiser(Denoiser):
    """The same distribution at every position of every state."""

    def __init__(self, logits: list[float]):
        self.mask_id = len(logits)
        self.row = torch.tensor([*logits, float("-inf")])

    def logits(self, ids: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        return self.row.expand(int(rows.sum()), -1).clone()


class TinyModel(nn.Module):
    """Embedding, a sum over the attended tokens, a head: what `ModelDenoiser` wraps."""

    def __init__(self, vocabulary: int, hidden: int = 6):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.head = nn.Linear(hidden, vocabulary)
        for parameter, seed in zip(self.parameters(), itertools.count(), strict=False):
            nn.init.normal_(parameter, generator=rng(seed))
        self.head_rows: list[int] = []
        self.head.register_forward_hook(lambda _, args, output: self.head_rows.append(output[..., 0].numel()))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        hidden = self.embedding(input_ids)
        seen = hidden if attention_mask is None else hidden * attention_mask.unsqueeze(-1)
        return SimpleNamespace(logits=self.head(torch.tanh(hidden + seen.sum(dim=1, keepdim=True))))


def synced(name: str = "cosine", steps: int = 8, **loss) -> tuple[DiffusionMaskingStrategy, TrajectoryNELBOLoss]:
    """A masking strategy and a loss on one schedule; nothing of the prompt is masked."""
    masking = DiffusionMaskingStrategy(p_mask_prompt=0.0, max_timesteps=steps, alpha_schedule=name)
    nelbo = TrajectoryNELBOLoss(max_timesteps=steps, alpha_schedule=name, **loss)
    masking.schedule = nelbo.schedule
    return masking, nelbo


def sampler(
    denoiser: Denoiser, length: int, name: str = "cosine", steps: int = 8, ends: tuple = (0.01, 0.99), **options
) -> DiffusionGenerator:
    """A generator on its own schedule."""
    masking = DiffusionMaskingStrategy(0.0, steps, name, *ends)
    return DiffusionGenerator(denoiser, masking.schedule, masking, length, **options)


def prompts(rows: int) -> tuple[Tensor, Tensor]:
    """The same prompt in every row, and its mask."""
    ids = PROMPT.expand(rows, -1).contiguous()
    return ids, torch.ones_like(ids)


def all_sequences(length: int, vocabulary: int = VOCABULARY) -> Tensor:
    """All V^L completions, in the order of their `number`."""
    return torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))


def number(ids: Tensor, vocabulary: int = VOCABULARY) -> Tensor:
    """Rows of digits as numbers in base `vocabulary`."""
    return (ids * vocabulary ** torch.arange(ids.size(1)).flip(0)).sum(dim=1)


def levels(schedule: AlphaSchedule) -> Tensor:
    """Mask probabilities of the whole closed grid."""
    return schedule.mask_prob(torch.tensor(schedule.timesteps))


def assert_mean(samples: Tensor, expected: float | Tensor, sigmas: float = 4.0) -> None:
    """The mean over rows of independent samples is `expected` within so many standard errors."""
    samples = samples.double()
    error = samples.std(dim=0) / samples.size(0) ** 0.5
    gap = (samples.mean(dim=0) - expected).abs()
    assert bool((gap <= sigmas * error + 1e-12).all()), f"off by {gap / error} standard errors"


def chi_square_excess(counts: Tensor, expected: Tensor) -> float:
    """Pearson's statistic in standard deviations above its mean.

    Cells with fewer than 5 expected, and those that the caller left out, are pooled into one.
    """
    counts, expected = counts.double(), expected.double()
    common = expected >= 5
    rest = counts.sum() - torch.stack([counts[common].sum(), expected[common].sum()])  # counted, expected
    if rest[1] < 1e-3:  # there is no rest
        return math.inf if rest[0] > 0 else _excess(counts[common], expected[common])
    return _excess(torch.cat([counts[common], rest[:1]]), torch.cat([expected[common], rest[1:]]))


def _excess(counts: Tensor, expected: Tensor) -> float:
    freedom = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return (statistic - freedom) / (2 * freedom) ** 0.5
