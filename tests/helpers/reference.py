"""The rollout by the book: one row, full logits of the whole canvas, float64, no early stop, nothing shared or saved.

It defines what `core.generator` has to write. How a token is picked is handed in: by a row's own numbers
(`by_number`), or by a test that walks through every choice.
"""

from collections.abc import Callable
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from core.generator import DiffusionGenerator
from core.sampling.noise import POSITION, TOKEN, RowNoise
from core.trajectory import NEVER

Pick = Callable[[Tensor, int, int], int]  # (probabilities (V,), timestep, column) -> token
Chance = Callable[[int, int], float]  # (timestep, column) -> uniform number


def by_number(noise: RowNoise, row: int) -> tuple[Pick, Chance]:
    """Tokens by the inverse distribution function, in the order of their ids, and positions, of a row's numbers."""

    def number(purpose: int, t: int, column: int) -> float:
        return noise.uniform(purpose, t, torch.tensor([row]), torch.tensor([column])).item()

    def pick(p: Tensor, t: int, column: int) -> int:
        u = number(TOKEN, t, column)
        return next(token for token, end in enumerate(p.cumsum(0).tolist()) if u < end)

    return pick, lambda t, column: number(POSITION, t, column)


def entropy(p: Tensor) -> float:
    return -torch.special.xlogy(p, p).sum().item()


# What a selection rule thinks of a position: of its distribution, the token picked there, and chance.
SCORES: dict[str, Callable[[Tensor, int, float], float]] = {
    "low_confidence": lambda p, token, u: p[token].item(),
    "top1": lambda p, token, u: p.max().item(),
    "entropy": lambda p, token, u: -entropy(p),
    "margin": lambda p, token, u: -p.topk(2).values.diff().item(),
    "random": lambda p, token, u: u,
}


def reference(
    settings: DiffusionGenerator,
    prompt: Tensor,
    prompt_mask: Tensor,
    numbers: tuple[Pick, Chance],
    sampler: str = "count_matched",
    selection: str = "top1",
) -> tuple[Tensor, Tensor, Tensor]:
    """Canvas, step_map and commit log-probs, (L,) each, of one row behind a prompt (P,); settings are only read."""
    denoiser, length, size = settings.denoiser, settings.canvas_length, settings.block_length
    temperature, (pick, chance) = settings.temperature, numbers
    stay = [(t, 0) for t in range(size, 0, -1)]  # (timestep, tokens of the block that stay masked, at least)
    if sampler == "count_matched":
        last = settings.schedule.max_timesteps
        grid = pairwise([last + 1, *range(last, -1, -(length // size)), -1])
        stay = [(t, round(size * settings.schedule.mask_prob(to).item())) for t, to in grid]
    ids, step_map = torch.full((length,), denoiser.mask_id), torch.full((length,), NEVER)
    commit_logps, step = torch.zeros(length).double(), 0
    for start in range(0, length, size):
        for t, left in stay:
            hidden = [i for i in range(start, start + size) if ids[i] == denoiser.mask_id]
            if len(hidden) <= left:
                continue
            state, seen = torch.cat([prompt, ids]), torch.cat([prompt_mask, torch.ones_like(ids)])
            rows = torch.arange(len(state)) >= len(prompt)
            logits = denoiser.logits(state[None], seen[None], rows[None]).double()
            best = torch.nn.functional.one_hot(logits.argmax(dim=1), logits.size(1)).double()
            laws = (logits / temperature).softmax(dim=1) if temperature > 0 else best
            tokens = {i: pick(laws[i], t, i) for i in hidden}
            p = logits.softmax(dim=1)
            if sampler == "confidence":
                surest = max(hidden, key=lambda i: p[i].max())
                chosen = {surest} | {i for i in hidden if p[i].max() >= settings.threshold}
            elif sampler == "entropy_bound":
                rising = sorted(hidden, key=lambda i: entropy(p[i]))
                before = [0.0, *accumulate(entropy(p[i]) for i in rising)]  # sum H - max H of the first 1, 2, ...
                chosen = {i for i, price in zip(rising, before, strict=False) if price <= settings.entropy_bound}
            else:
                scores = {i: SCORES[selection](p[i], tokens[i], chance(t, i)) for i in hidden}
                chosen = set(sorted(hidden, key=scores.__getitem__, reverse=True)[: len(hidden) - left])
            for i in chosen:
                ids[i], step_map[i], commit_logps[i] = tokens[i], step, laws[i, tokens[i]].log()
            step += 1
    return ids, step_map, commit_logps
