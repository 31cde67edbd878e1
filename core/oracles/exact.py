"""The oracle: exact likelihood and exact NELBO of a short completion, by enumeration over its 2^L mask subsets.

A state of the ancestral sampler that ends in a given completion is a subset of masked positions (the others show the
completion), so everything follows from one table: log p(x_i | visible part of x) for every subset and every masked i.
L up to about 10: the table costs 2^L denoiser rows, the likelihood 3^L terms a transition.
"""

import math
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoisers import Denoiser


@cache
def subsets(length: int) -> Bool[Tensor, "S L"]:
    """All 2^L masked sets; row k masks position i iff bit i of k is set."""
    if length > 16:
        raise ValueError(f"canvas length {length} is too long to enumerate; allowed: up to 16 (10 for the likelihood)")
    return (torch.arange(2**length).unsqueeze(1) >> torch.arange(length)) & 1 == 1


def conditional_logps(
    denoiser: Denoiser, prompt_ids: Int[Tensor, " P"], ids: Int[Tensor, " L"], chunk: int = 1024
) -> Float[Tensor, "S L"]:
    """log p(x_i | x outside the masked set), float64, for every subset (rows) and masked i; 0 at visible positions."""
    masked = subsets(ids.size(0)).to(ids.device)
    states = torch.where(masked, denoiser.mask_id, ids)
    states = torch.cat([prompt_ids.expand(masked.size(0), -1), states], dim=1)
    rows = torch.cat([masked.new_zeros(masked.size(0), prompt_ids.size(0)), masked], dim=1)
    picked = []
    for part, part_rows in zip(states.split(chunk), rows.split(chunk), strict=True):
        logits = denoiser.logits(part, None, part_rows).double()
        targets = ids.expand(part.size(0), -1)[part_rows[:, prompt_ids.size(0) :]]
        picked.append(torch.log_softmax(logits, dim=-1).gather(1, targets.unsqueeze(1)).squeeze(1))
    return torch.zeros(masked.shape, dtype=torch.float64, device=ids.device).masked_scatter(masked, torch.cat(picked))


def exact_nelbo(table: Float[Tensor, "S L"], schedule: AlphaSchedule) -> Float[Tensor, ""]:
    """The NELBO that `TrajectoryNELBOLoss` estimates from forward states: sum_t w_t E[CE of tokens masked at t]."""
    masked = subsets(table.size(1)).to(table.device)
    size = masked.sum(dim=1)
    t = torch.tensor(schedule.timesteps[1:], device=table.device)
    mask_prob = schedule.mask_prob(t).unsqueeze(1)
    probability = mask_prob**size * (1 - mask_prob) ** (table.size(1) - size)  # (T+2, S)
    return -(schedule.nelbo_weight(t) @ (probability @ table.sum(dim=1)))


def exact_log_likelihood(table: Float[Tensor, "S L"], schedule: AlphaSchedule) -> Float[Tensor, ""]:
    """log p(completion | prompt) of the ancestral sampler on the closed grid, by dynamic programming over subsets.

    f_t(A) = P(the completion comes out | A is masked at t) = sum over B subset of A of
    r_t^|B| (1 - r_t)^|A - B| prod_{i in B} p(x_i | A) f_{t-1}(A - B); f_{-1}(empty) = 1; the answer is f_{T+1}(all).
    """
    whole, part = (index.to(table.device) for index in nested_pairs(table.size(1)))
    masked = subsets(table.size(1)).to(table.device)
    reveal_probability = (table[whole] * masked[part]).sum(dim=1).exp()
    revealed = masked[part].sum(dim=1)
    kept = masked[whole].sum(dim=1) - revealed
    value = torch.zeros(masked.size(0), dtype=table.dtype, device=table.device)
    value[0] = 1.0
    for t in schedule.timesteps[1:]:
        r = schedule.reveal_prob(t).to(table.device)  # a float64 tensor: a number's powers would be float32
        terms = reveal_probability * r**revealed * (1 - r) ** kept * value[whole - part]
        value = torch.zeros_like(value).index_add(0, whole, terms)
    return value[-1].log()


@cache
def nested_pairs(length: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """All 3^L pairs (A, B) of subsets with B inside A, as bit numbers."""
    whole, part = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    for i in range(length):  # each position: outside both, in A only, in both
        bit = 1 << i
        whole, part = torch.cat([whole, whole + bit, whole + bit]), torch.cat([part, part, part + bit])
    return whole, part


def any_order_average(table: Float[Tensor, "S L"]) -> Float[Tensor, ""]:
    """Mean over all L! orders of -log p(completion), one token at a time: the limit of the NELBO on fine grids.

    Before the reveal that leaves k - 1 tokens, the masked set is uniform among the C(L, k) sets of size k and the next
    token uniform among its k members (Hoogeboom et al. 2022, eq. 2).
    """
    size = subsets(table.size(1)).sum(dim=1).to(table.device)
    ways = torch.tensor([math.comb(table.size(1), k) for k in range(table.size(1) + 1)], device=table.device)
    weight = torch.where(size > 0, 1.0 / (size.clamp(min=1) * ways[size]).double(), 0.0)
    return -(weight * table.sum(dim=1)).sum()
