"""wd1 (Tang et al. 2025, 2507.08838): weights of completions by two softmaxes over their group, in place of
advantages."""

from jaxtyping import Bool, Float
from torch import Tensor

from core.scoring.share import Share


def wd1_weights(
    advantages: Float[Tensor, " B"], unscored: Bool[Tensor, " N"], group: int, psi: float, share: Share
) -> Float[Tensor, " B"]:
    """Weights of this process's completions: G (softmax(psi A) - softmax(-psi A)) over the G of a prompt.

    Args:
        advantages: A of this process's completions, (B,).
        unscored: completions of the global batch about which nothing is known: they weigh 0, (N,).
        group: G, consecutive rows of the global batch.
        psi: how sharp the softmaxes are.
        share: the part of the global batch that these rows are; a group may lie on several processes.
    """
    scores = psi * share.gather(advantages).view(-1, group)
    weights = group * (scores.softmax(dim=1) - (-scores).softmax(dim=1))
    return weights.flatten().masked_fill(unscored, 0.0)[share.own(len(advantages))]
