"""Every published policy likelihood of masked diffusion models, behind the interface of `core.scoring.likelihood`.

Notation: L tokens of the canvas, l_k(state) = log p(token k | state). "Forwards" are states scored per sequence.

| name | states | forwards |
|---|---|---|
| trajectory_nelbo | steps of the rollout, drawn; or fresh masks on the schedule | K, S or M |
| one_step | everything hidden (d1) | M, published 1 |
| coupled | everything hidden; masks and their complements (DiffuCoder) | 1 + 2 pairs, published 3 |
| monte_carlo | l of L tokens hidden (LLaDA) | M |
| complementary | the same in pairs with their complements (ESPO) | M, published 2 |
| spg | fresh masks on the schedule, for a lower and an upper bound (SPG) | M, published 2 |
| rollout | merged steps of the rollout (d2, TraceRL; CJ-GRPO unmerged) | K |
| quadrature | one mask at each of M Gauss nodes of the noise level (GDPO) | M, published 3 |
| selection_replay | steps of the rollout, with the probability that just these positions were chosen | K or S |

What each brings in bias, variance and cost against the exact likelihood: docs/estimators.md.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers.denoiser import Denoiser
from core.denoisers.projection import of_targets, tempered_logps
from core.masking_strategy import MaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.scoring.likelihood import Draws, Likelihood, LikelihoodEstimate, Noise, predict_states, scatter, targets
from core.trajectory import Trajectory

COUPLED_RATES = (0.2, 0.8)  # DiffuCoder's range of mask rates


class OneStep(Likelihood):
    """d1's one-step likelihood: every token given the prompt alone (Zhao et al. 2025, 2504.12216).

    Estimates sum_k l_k(all hidden), averaged over M prompt masks: the exact log-likelihood of a rollout of one step,
    and biased for a rollout of more, whose later tokens saw the earlier ones. Forwards: M, published 1.
    """

    default_draws = 1

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        hidden = torch.ones_like(noise(self.num_draws, length), dtype=torch.bool)
        return {"hidden": hidden, "weight": hidden[:, :, 0] / self.num_draws}


class CoupledMasks(Likelihood):
    """DiffuCoder's coupled estimate (Gong et al. 2025, 2506.20639): complementary masks and the full mask.

    With P pairs of a mask of rate r ~ U(.2, .8) and its complement, token k gets
    [l_k(all hidden) + sum over pairs of l_k / rate in the one of the two masks that hides it] / (P + 1). Every token
    is scored P + 1 times. The expectation is [l_k(all hidden) + 2 P E_r E(l_k | k hidden at rate r)] / (P + 1): for
    P = 1 half the one-step value plus a mean over middling rates whose weight is 1, so 1.5 log-likelihoods in all; a
    likelihood to differentiate, not a bound. Forwards: 1 + 2 P, published 3.
    """

    default_draws = 3

    def allowed_draws(self) -> str | None:
        return None if self.num_draws % 2 and self.num_draws > 1 else "odd and at least 3: the full mask and pairs"

    def num_groups(self, states: int) -> int:
        return 1

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        pairs = (self.num_draws - 1) // 2
        low, high = COUPLED_RATES
        rate = low + (high - low) * noise(pairs, 1)
        mask = noise(pairs, length) < rate
        hidden = torch.stack([mask, ~mask], dim=2).flatten(1, 2)
        rate = torch.stack([rate, 1 - rate], dim=2).flatten(1)
        hidden = torch.cat([torch.ones_like(hidden[:, :1]), hidden], dim=1)
        rate = torch.cat([torch.ones_like(rate[:, :1]), rate], dim=1)
        return {"hidden": hidden, "weight": 1 / (rate * (pairs + 1))}


class MonteCarlo(Likelihood):
    """LLaDA's Monte-Carlo likelihood (Nie et al. 2025, 2502.09992): l ~ U{1..L} tokens hidden, weight L / l.

    Unbiased for the any-order bound E_order[sum_k l_k(the tokens before k in the order)], which every grid of
    timesteps approaches as it is refined (`core.oracles.exact.any_order_average`). Forwards: M.
    """

    default_draws = 2

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        hidden = _hide_some(noise, self.num_draws, length)
        return {"hidden": hidden, "weight": length / (hidden.sum(dim=2) * self.num_draws)}


class ComplementaryMonteCarlo(Likelihood):
    """`MonteCarlo` in pairs: a mask and its complement, averaged (ESPO, 2512.03759, coupled sampling).

    The complement of the full mask is empty: counting nothing for it would leave out half of what the full mask stands
    for. Here its partner is the full mask itself, which makes the mean unbiased: both members then hide each number of
    tokens from 1 to L equally often. Use with importance_sampling_level: sequence, as ESPO does.
    Forwards: M, published 2.
    """

    default_draws = 2

    def allowed_draws(self) -> str | None:
        return "an even number: masks come with their complements" if self.num_draws % 2 else None

    def num_groups(self, states: int) -> int:
        return states // 2

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        mask = _hide_some(noise, self.num_draws // 2, length)
        partner = torch.where(mask.all(dim=2, keepdim=True), mask, ~mask)
        hidden = torch.stack([mask, partner], dim=2).flatten(1, 2)
        return {"hidden": hidden, "weight": length / (hidden.sum(dim=2) * self.num_draws)}


class Sandwich(TrajectoryNELBOLoss):
    """SPG's sandwich (2510.09541): a lower bound for positive advantages, a mixture with an upper one for negative.

    The lower bound is `TrajectoryNELBOLoss` on fresh masks, with e_k = sum_m w_m l_mk. The upper one is
    EUBO = sum_k (1/b) log E[1(k hidden) p_k^b / mask_prob] (their bound without its additive constant): by Hölder's
    inequality it is at least log p(completion) for b >= L, and at least the lower bound for b >= 1. At SPG's b = 1.5
    it can lie below log p (`tests/core/likelihoods/test_estimators.py` has a case). From M draws the mean inside the
    logarithm is biased downwards; tokens that no draw hid are left out. There is no ratio in SPG: the loss is A times
    the value.

    Args:
        max_timesteps, alpha_schedule, alpha_min, alpha_max, num_draws, ratio: see `Likelihood`.
        power: b.
        upper_share: weight of the upper bound in the mixture, SPG's omega.

    Forwards: M, published 2 (SPG also masks by blocks of the sampler; here masks follow the schedule).
    """

    ratios = ("none", "weighted")

    def __init__(
        self,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
        num_draws: int | None = None,
        ratio: str | None = None,
        power: float = 1.5,
        upper_share: float = 0.5,
    ):
        if not 1 <= power < math.inf:
            raise ValueError(f"loss.eubo_power={power}: expected at least 1 and finite: below 1 it is no bound")
        if not 0 <= upper_share <= 1:
            raise ValueError(f"loss.eubo_share={upper_share}: expected a share in [0, 1]")
        self.power, self.upper_share = power, upper_share
        grid = (max_timesteps, alpha_schedule, alpha_min, alpha_max)
        super().__init__(*grid, "forward", num_draws, "independent", ratio=ratio)

    def combine(
        self, logps: Float[Tensor, "B M L"], entropies: Float[Tensor, "B M L"], draws: Draws
    ) -> LikelihoodEstimate:
        found = super().combine(logps, entropies, draws)
        lower, upper = -found.token_bound, upper_bound(logps, draws, self.power)
        mixture = self.upper_share * upper + (1 - self.upper_share) * lower
        return replace(found, per_token_logps=lower, negative_logps=mixture)

    def token_weight(self, draws: Draws) -> Float[Tensor, "B L"]:
        """The weights are inside the values."""
        return torch.ones_like(draws.scored[:, 0], dtype=torch.float32)


def upper_bound(logps: Float[Tensor, "B M L"], draws: Draws, power: float) -> Float[Tensor, "B L"]:
    """SPG's evidence upper bound of each token, (1/b) log sum_m w_m p_mk^b; 0 where no draw scored the token."""
    terms = (power * logps + draws.weight.unsqueeze(2).log()).masked_fill(~draws.scored, float("-inf"))
    return torch.where(draws.scored.any(dim=1), terms.logsumexp(dim=1) / power, 0.0)


class MergedReplay(TrajectoryNELBOLoss):
    """The rollout's own states, neighbouring steps merged: tokens of a segment are scored on the state before it.

    With K segments, d2-StepMerge (Wang et al. 2025, 2509.21474; published K = 8); with segments of s steps, TraceRL's
    shrinkage (Wang et al. 2025, 2509.06949); unmerged (K at least the number of steps, or s = 1), the exact replay of
    CJ-GRPO (2509.23924): under a distribution-only rule that is the exact log-probability of the path. Merging is
    biased: a token no longer sees those that its segment committed before it. Forwards: K, or S / s.

    Args:
        max_timesteps, alpha_schedule, alpha_min, alpha_max, num_draws, ratio: see `Likelihood`; num_draws is K.
        shrinkage: s, steps merged into one state, in place of K.
    """

    default_draws = 8

    def __init__(
        self,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
        num_draws: int | None = None,
        ratio: str | None = None,
        shrinkage: int | None = None,
    ):
        if shrinkage is not None and (shrinkage < 1 or num_draws is not None):
            raise ValueError(f"loss.shrinkage={shrinkage}: expected at least 1, and loss.num_draws={num_draws} unset")
        self.shrinkage = shrinkage
        grid = (max_timesteps, alpha_schedule, alpha_min, alpha_max)
        super().__init__(*grid, "rollout", num_draws, replay="segments", ratio=ratio)
        self.replays_steps = shrinkage == 1

    def choose_steps(
        self, steps: Int[Tensor, " B"], noise: Noise, most: int
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B K"], Float[Tensor, " B"]]:
        if self.shrinkage is None:
            return super().choose_steps(steps, noise, most)
        start = torch.arange(0, int(steps.max()), self.shrinkage).expand(len(steps), -1)
        return start, start + self.shrinkage, torch.ones(len(steps))


class GaussQuadrature(Likelihood):
    """GDPO's quadrature (2510.08554): one mask at each of M Gauss-Legendre nodes of the noise level on [0, 1].

    The integrand E[sum of l_k over hidden k] / level is a polynomial of degree L - 1 in the level, so from M >= L / 2
    nodes on only the masks are left to chance and the mean is the any-order bound exactly, as `MonteCarlo`'s; below
    that a bias of the rule remains. Use with importance_sampling_level: sequence, as GDPO does. Forwards: M,
    published 3.
    """

    default_draws = 3

    def num_groups(self, states: int) -> int:
        return 1

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        level, weight = gauss_legendre(self.num_draws)
        hidden = noise(self.num_draws, length) < level.unsqueeze(1)
        return {"hidden": hidden, "weight": (weight / level).expand(hidden.shape[:2])}


def gauss_legendre(nodes: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Nodes in [0, 1] and weights of the Gauss-Legendre rule, float64, exact for polynomials of degree 2 n - 1.

    Eigenvalues of the Jacobi matrix of the Legendre polynomials (Golub and Welsch 1969).
    """
    k = torch.arange(1, nodes, dtype=torch.float64)
    beside = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (values + 1) / 2, vectors[0] ** 2


class SelectionReplay(TrajectoryNELBOLoss):
    """Exact replay of LLaDA's low_confidence rule: the probability of the tokens and of the choice of positions.

    The rule draws x_j ~ q_j at every masked position j of the block and commits the positions B whose drawn tokens
    have the largest p_j(x_j), where p is the distribution at temperature 1 and q at the sampling temperature. So a
    step has probability prod_{i in B} q_i(x_i) * prod_{j not in B} F_j, with
    F_j = q_j{v : p_j(v) < min_{i in B} p_i(x_i)}: the tokens that were passed over must have been less likely. Replay
    without F (`trajectory_nelbo`, TraceRL, d2) is not the law of the commits: it misses sum_j log F_j, and
    its policy gradient is biased. A sum over all steps is exact; K drawn steps, weighted S / K, are unbiased. The same
    forwards; the head runs on all masked positions of the block. Each token of a step carries an equal share of its
    step's log F. Where an update has made the recorded choice impossible, F is floored at `FLOOR`, without gradient.

    Args:
        max_timesteps, alpha_schedule, alpha_min, alpha_max, num_draws, ratio: see `Likelihood`.
        replay: ``drawn`` (K steps) or ``all``.
        block_length: of the sampler, tokens; None: the whole canvas is one block.
        temperature: of the sampler.
    """

    FLOOR = 1e-6

    def __init__(
        self,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
        num_draws: int | None = None,
        ratio: str | None = None,
        replay: str = "drawn",
        block_length: int | None = None,
        temperature: float = 1.0,
    ):
        if replay == "segments":
            raise ValueError("loss.replay='segments': merged steps have no selection probability; use drawn or all")
        if temperature <= 0:
            raise ValueError(f"generation.temperature={temperature}: expected above 0, greedy choices have no law")
        self.block_length, self.temperature = block_length, temperature
        grid = (max_timesteps, alpha_schedule, alpha_min, alpha_max)
        super().__init__(*grid, "rollout", num_draws, replay=replay, ratio=ratio)

    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        drawn = super().draw_states(masking, length, noise, trajectory)
        block = torch.arange(length) // (self.block_length or length)
        here = block == torch.where(drawn["scored"], block, -1).amax(dim=2, keepdim=True)  # a step is in one block
        return {**drawn, "candidates": drawn["hidden"] & here}

    def predicted(self, draws: Draws) -> Bool[Tensor, "B M L"]:
        assert draws.candidates is not None
        return draws.candidates

    def evaluate(
        self,
        denoiser: Denoiser,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        draws: Draws,
        temperature: float,
    ) -> tuple[Float[Tensor, "B M L"], Float[Tensor, "B M L"]]:
        logits = predict_states(denoiser, prompt_ids, prompt_mask, ids, draws, self.predicted(draws))
        return self.from_distributions(tempered_logps(logits, temperature), ids, draws)

    def from_distributions(
        self, all_logps: Float[Tensor, "R V"], ids: Int[Tensor, "B L"], draws: Draws
    ) -> tuple[Float[Tensor, "B M L"], Float[Tensor, "B M L"]]:
        candidates = self.predicted(draws)
        commits, entropies = of_targets(all_logps, targets(ids, candidates))
        logps = scatter(commits, candidates) + self._selection(all_logps, ids, draws)
        return logps * draws.scored, scatter(entropies, candidates) * draws.scored

    def _selection(
        self, all_logps: Float[Tensor, "R V"], ids: Int[Tensor, "B L"], draws: Draws
    ) -> Float[Tensor, "B M 1"]:
        """Log-probability that all other candidates drew something less likely, shared among the tokens of a step."""
        candidates = self.predicted(draws)
        with torch.no_grad():
            # the rule ranks at temperature 1; renormalising the tempered log-probs at 1 / temperature gives them back
            ranks = torch.log_softmax(all_logps * self.temperature, dim=1)
            chosen = scatter(ranks.gather(1, targets(ids, candidates).unsqueeze(1)).squeeze(1), candidates)
            threshold = chosen.masked_fill(~draws.scored, float("inf")).amin(dim=2, keepdim=True)
            below = ranks < threshold.expand_as(candidates)[candidates].unsqueeze(1)
        passed = scatter((all_logps.exp() * below).sum(dim=1).clamp(min=self.FLOOR).log(), candidates)
        passed = passed.masked_fill(draws.scored, 0.0).sum(dim=2, keepdim=True)
        return passed / draws.scored.sum(dim=2, keepdim=True).clamp(min=1)


def _hide_some(noise: Noise, draws: int, length: int) -> Bool[Tensor, "B M L"]:
    """Hide l ~ U{1..L} tokens, each set of l equally likely."""
    count = (noise(draws, 1) * length).floor() + 1
    return noise(draws, length).argsort(dim=2).argsort(dim=2) < count


ESTIMATORS: dict[str, type[Likelihood]] = {
    "trajectory_nelbo": TrajectoryNELBOLoss,
    "one_step": OneStep,
    "coupled": CoupledMasks,
    "monte_carlo": MonteCarlo,
    "complementary": ComplementaryMonteCarlo,
    "spg": Sandwich,
    "rollout": MergedReplay,
    "quadrature": GaussQuadrature,
    "selection_replay": SelectionReplay,
}
