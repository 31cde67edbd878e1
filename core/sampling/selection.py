"""Which of the masked positions are revealed next: one score per masked position, the highest are taken.

LLaDA's ``low_confidence`` ranks positions by the probability of the token that was *drawn* there, so a token that is
likely by luck is committed more often than its probability: the law of a committed token is no longer p(token | state)
and the product of commit probabilities is not the probability of the path. Rules that look at the distribution alone,
or at nothing, keep it exact.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from core.names import look_up
from core.sampling.prediction import Prediction

Chance = Callable[[], Tensor]  # one uniform number a position, (R,), for rules that ask


def low_confidence(prediction: Prediction, chance: Chance) -> Tensor:
    """Log-probability of the drawn token (LLaDA, Nie et al. 2025, "low-confidence remasking"; MaskGIT)."""
    return prediction.logps_of(prediction.tokens)


def top1(prediction: Prediction, chance: Chance) -> Tensor:
    """Log-probability of the likeliest token."""
    return prediction.top_logps


def entropy(prediction: Prediction, chance: Chance) -> Tensor:
    """Negative entropy of the distribution, in nats (Dream, Ye et al. 2025)."""
    return -prediction.entropies


def margin(prediction: Prediction, chance: Chance) -> Tensor:
    """Probability of the likeliest token minus that of the second (Kim et al. 2025, "top-k margin")."""
    return prediction.margins


def random(prediction: Prediction, chance: Chance) -> Tensor:
    """A uniform number: every masked position is equally likely to be next."""
    return chance()


@dataclass(frozen=True)
class Selection:
    """A rule and whether commit log-probs under it multiply to the probability of the path.

    Attributes:
        score: (prediction at R positions, uniforms on demand) -> scores (R,), the highest are revealed.
        exact: True if the score does not look at the drawn token.
    """

    score: Callable[[Prediction, Chance], Float[Tensor, " R"]]
    exact: bool


SELECTIONS: dict[str, Selection] = {
    "low_confidence": Selection(low_confidence, exact=False),
    "top1": Selection(top1, exact=True),
    "entropy": Selection(entropy, exact=True),
    "margin": Selection(margin, exact=True),
    "random": Selection(random, exact=True),
}


def selection_named(name: str) -> Selection:
    """A rule of `SELECTIONS`.

    Raises:
        ValueError: unknown name.
    """
    return look_up("generation.selection", name, SELECTIONS)
