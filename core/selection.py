"""Which of the masked positions are revealed next: one score per masked row, the highest are taken.

LLaDA's ``low_confidence`` ranks positions by the probability of the token that was *drawn* there, so a token that is
likely by luck is committed more often than its probability: the law of a committed token is no longer p(token | state)
and the product of commit probabilities is not the probability of the path. Rules that look at the distribution alone,
or at nothing, keep it exact.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def low_confidence(logps: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Log-probability of the drawn token (LLaDA, Nie et al. 2025, "low-confidence remasking"; MaskGIT)."""
    return logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def top1(logps: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Log-probability of the likeliest token."""
    return logps.amax(-1)


def entropy(logps: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Negative entropy of the distribution, in nats (Dream, Ye et al. 2025)."""
    return torch.special.entr(logps.exp()).sum(-1).neg()


def margin(logps: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Probability of the likeliest token minus that of the second (Kim et al. 2025, "top-k margin")."""
    best = logps.topk(2, dim=-1).values.exp()
    return best[..., 0] - best[..., 1]


def random(logps: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """A uniform number: every masked position is equally likely to be next."""
    draws = torch.rand(tokens.shape, generator=generator, device=generator.device)
    return draws.to(logps.device)


@dataclass(frozen=True)
class Selection:
    """A rule and whether commit log-probs under it multiply to the probability of the path.

    Attributes:
        score: (logps (R, V) at temperature 1, drawn tokens (R,), generator) -> scores (R,), the highest are revealed.
        exact: True if the score does not look at the drawn token.
    """

    score: Callable[[Float[Tensor, "R V"], Int[Tensor, " R"], torch.Generator], Float[Tensor, " R"]]
    exact: bool


SELECTIONS: dict[str, Selection] = {
    "low_confidence": Selection(low_confidence, exact=False),
    "top1": Selection(top1, exact=True),
    "entropy": Selection(entropy, exact=True),
    "margin": Selection(margin, exact=True),
    "random": Selection(random, exact=True),
}
