"""What goes into an importance ratio or a KL: log-probabilities of single tokens, and how often the loss counts each.

The *sequence value*, the weighted sum over draws, is kept apart from that. With w_m the weight of draw m and
l_mk = log p(token k | state m) where draw m scores token k, the choices of `RATIOS` are:

    normalised  per token sum_m w_m l_mk / sum_m w_m, and the loss counts the token sum_m w_m times. Before an update
                the gradient is that of the sequence value, exactly; the ratio is an average of bounded ratios.
    weighted    per token sum_m w_m l_mk, counted once: what most papers write. The same gradient before an update, but
                a weight of 1 / mask_prob then stands in the exponent of the ratio, and in k3's exp.
    plain       per token the mean of l_mk, and the tokens that were scored share the canvas: no weights at all. Low
                variance; the gradient is that of another sum than the bound's, with every noise level counted equally.
    none        as normalised, without a ratio: the loss is A log p (wd1, SPG), also after updates.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from core.scoring.draws import Draws
from core.scoring.estimate import LikelihoodEstimate

PerToken = Callable[[Tensor, Draws], Tensor]  # log-probs of the scored tokens (B, M, L), draws -> (B, L)


def weighted(logps: Float[Tensor, "B M L"], draws: Draws) -> Float[Tensor, "B L"]:
    """sum_m w_m l_mk."""
    return (logps * draws.weight.unsqueeze(2)).sum(dim=1)


def normalised(logps: Float[Tensor, "B M L"], draws: Draws) -> Float[Tensor, "B L"]:
    """sum_m w_m l_mk / sum_m w_m."""
    weight, total = draws.weight.unsqueeze(2), total_weight(draws).unsqueeze(1)
    # divided first: the share of a token's only draw is then 1, exactly
    return (logps * (weight / torch.where(total > 0, total, 1.0))).sum(dim=1)


def plain(values: Float[Tensor, "B M L"], draws: Draws) -> Float[Tensor, "B L"]:
    """The mean of l_mk over the draws that scored the token; 0 where none did."""
    return values.sum(dim=1) / draws.scored.sum(dim=1).clamp(min=1)


def total_weight(draws: Draws) -> Float[Tensor, "B L"]:
    """The weights of the draws that scored each token, summed: how many tokens it stands for."""
    return (draws.scored * draws.weight.unsqueeze(2)).sum(dim=1)


def once(draws: Draws) -> Float[Tensor, "B L"]:
    """Every token of the canvas counted once, (B, L)."""
    return torch.ones_like(draws.scored[:, 0], dtype=torch.float32)


def shared_canvas(draws: Draws) -> Float[Tensor, "B L"]:
    """Weights without the draws' own: every token has the same chance to be scored at least once, so those that were
    share the canvas, (B, L)."""
    seen = draws.scored.any(dim=1).float()
    return seen * seen.size(1) / seen.sum(dim=1, keepdim=True).clamp(min=1)


def both_signs(estimate: LikelihoodEstimate) -> Float[Tensor, "B 2 L"]:
    """Per-token log-probs for completions of positive and of negative advantage, (B, 2, L)."""
    return torch.stack([estimate.per_token_logps, estimate.negative_logps], dim=1)


def by_sign(logps: Float[Tensor, "B 2 C"], advantages: Float[Tensor, " B"]) -> Float[Tensor, "B C"]:
    """Of `both_signs`, what each row's advantage asks for, (B, C)."""
    return torch.where((advantages < 0).unsqueeze(1), logps[:, 1], logps[:, 0])


# loss.ratio: what stands for each token's log-probability in ratio and KL
RATIOS: dict[str, PerToken] = {
    "normalised": normalised,
    "weighted": weighted,
    "plain": plain,
    "none": normalised,
}
