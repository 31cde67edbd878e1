"""What one evaluation says at R positions: tokens drawn from it, their log-probabilities, and how sure the model is.

Everything is computed when it is asked for, and once. A token is drawn by inverting the distribution function with one
uniform number: the exponentials are needed for the normaliser anyway, so that drawing from a vocabulary of V costs a
search over about 2 sqrt(V) numbers more, where a Gumbel race costs V random numbers and V logarithms. float32 weights,
float64 sums: the probability of every token is right to float32's rounding, also in the tail.
"""

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

PIECE = 256  # tokens whose weights are summed before the search; about the square root of real vocabularies


def check_temperature(temperature: float) -> None:
    """Raise a ValueError for a temperature below 0."""
    if temperature < 0:
        raise ValueError(f"generation.temperature={temperature} must be at least 0 (0 is greedy)")


def invert(weights: Float[Tensor, "D V"], u: Float[Tensor, " R"], of: Int[Tensor, " R"]) -> Int[Tensor, " R"]:
    """Draw from unnormalised distributions by inversion.

    Args:
        weights: not negative, one of them positive in each row, (D, V).
        u: uniforms in [0, 1), float64, (R,).
        of: the row of ``weights`` that each draw is from, (R,).

    Returns:
        Tokens, (R,); none of weight 0.
    """
    vocabulary = weights.size(1)
    if vocabulary <= PIECE:
        return _search(weights[of], u)[0]
    whole = vocabulary // PIECE * PIECE
    pieces = weights[:, :whole].unflatten(1, (-1, PIECE)).sum(dim=2)
    if whole < vocabulary:
        pieces = torch.cat([pieces, weights[:, whole:].sum(dim=1, keepdim=True)], dim=1)
    piece, rest = _search(pieces[of], u)
    columns = piece.unsqueeze(1) * PIECE + torch.arange(PIECE, device=piece.device)
    inside = weights[of.unsqueeze(1), columns.clamp(max=vocabulary - 1)]
    token, _ = _search(torch.where(columns < vocabulary, inside, 0.0), rest)
    return piece * PIECE + token


def _search(weights: Float[Tensor, "R C"], u: Float[Tensor, " R"]) -> tuple[Int[Tensor, " R"], Float[Tensor, " R"]]:
    """The cell in which u of the total lies, and how far into the cell it is, in [0, 1)."""
    ends = weights.double().cumsum(dim=1)
    # u < 1 - 2^-53, so the target stays below the total; right=True passes over cells of weight 0
    target = (u * ends[:, -1]).unsqueeze(1)
    cell = torch.searchsorted(ends, target, right=True)
    width = weights.gather(1, cell).double()
    begin = ends.gather(1, cell) - width
    below_one = 1 - torch.finfo(torch.float64).eps
    return cell.squeeze(1), ((target - begin) / width).clamp(min=0, max=below_one).squeeze(1)


class Prediction:
    """Distributions at R positions.

    Args:
        logits: float32, -inf where a token is impossible, (D, V).
        temperature: of the drawn tokens; 0 takes the likeliest, with certainty.
        u: uniforms that draw the tokens, float64, (R,); None where tokens are not asked for, or greedy.
        of: the row of ``logits`` that holds at each position, (R,), where positions share rows; None: their own.
    """

    def __init__(
        self,
        logits: Float[Tensor, "D V"],
        temperature: float,
        u: Float[Tensor, " R"] | None,
        of: Int[Tensor, " R"] | None = None,
    ):
        self.logits, self.temperature, self.u = logits, temperature, u
        self.of = torch.arange(len(logits), device=logits.device) if of is None else of

    @cached_property
    def _best(self) -> tuple[Float[Tensor, " D"], Int[Tensor, " D"]]:
        values, tokens = self.logits.max(dim=1)
        return values, tokens

    def _weights(self, temperature: float) -> Float[Tensor, "D V"]:
        """softmax(logits / temperature) up to its normaliser; the likeliest token weighs 1."""
        weights = self.logits - self._best[0].unsqueeze(1)
        return weights.exp_() if temperature == 1 else weights.div_(temperature).exp_()

    @cached_property
    def _drawn_weights(self) -> Float[Tensor, "D V"]:
        return self._weights(self.temperature)

    @cached_property
    def _plain_weights(self) -> Float[Tensor, "D V"]:
        return self._drawn_weights if self.temperature == 1 else self._weights(1.0)

    @cached_property
    def _log_total(self) -> Float[Tensor, " D"]:
        """log sum exp(logit - best logit)."""
        return self._plain_weights.sum(dim=1).log()

    @cached_property
    def tokens(self) -> Int[Tensor, " R"]:
        """The drawn tokens."""
        if self.temperature == 0:
            return self._best[1][self.of]
        assert self.u is not None
        return invert(self._drawn_weights, self.u, self.of)

    @cached_property
    def commit_logps(self) -> Float[Tensor, " R"]:
        """log-probability with which each token was drawn; 0 if greedy."""
        if self.temperature == 0:
            return torch.zeros_like(self.of, dtype=self.logits.dtype)
        above = (self.logits[self.of, self.tokens] - self._best[0][self.of]) / self.temperature
        return above - self._drawn_weights.sum(dim=1).log()[self.of]

    # ---- at temperature 1, what selection rules look at ------------------------------------------------------------

    def logps_of(self, tokens: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """log p(token) of given tokens."""
        return (self.logits[self.of, tokens] - self._best[0][self.of]) - self._log_total[self.of]

    @cached_property
    def top_logps(self) -> Float[Tensor, " R"]:
        """log p of the likeliest token."""
        return -self._log_total[self.of]

    @cached_property
    def entropies(self) -> Float[Tensor, " R"]:
        """Entropy, nats."""
        weights = self._plain_weights
        return (self._log_total - torch.special.xlogy(weights, weights).sum(dim=1) / weights.sum(dim=1))[self.of]

    @cached_property
    def margins(self) -> Float[Tensor, " R"]:
        """Probability of the likeliest token minus that of the second."""
        first, second = self._plain_weights.topk(2, dim=1).values.unbind(dim=1)
        return ((first - second) / self._plain_weights.sum(dim=1))[self.of]
