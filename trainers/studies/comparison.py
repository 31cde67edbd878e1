"""Likelihood estimators against the exact likelihood and the exact policy gradient of the sampler in use.

On a model whose canvases can be enumerated (`trainers.studies.enumerable`) both are known
(`core.oracles.sampler_law`), so bias and variance of an estimator are measured and not argued about:

*likelihood*: completions drawn by the sampler; the estimate of log p(completion | prompt) against the exact value.

*gradient*: batches of N rollouts, advantages A = R - E R with the exact expected reward of the prompt, and the
gradient of (1/N) sum_b A_b sum_k token_weight_bk per_token_logps_bk: the trainer's loss at ratio 1. It is compared
with the gradient of the exact expected reward. Bias is measured on differences to *REINFORCE*, the same batch with the
exact log p: that one is unbiased and shares the noise of the rollouts, which so cancels.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.generator import DiffusionGenerator
from core.likelihoods import ESTIMATORS
from core.masking_strategy import MaskingStrategy
from core.oracles.sampler_law import all_completions, expected_reward, log_likelihoods, state_table
from core.scoring import Likelihood, LikelihoodEstimate, both_signs, by_sign
from core.trajectory import Trajectory
from trainers.distributed.randomness import generator_at
from trainers.evaluating.statistics import Z95
from trainers.settings.options import ConfigError
from trainers.studies.enumerable import ANSWER_TOKENS, rewards

REINFORCE = "exact likelihood"
# Standard errors of the squared bias: 1 in 100 at worst by chance (one dominant direction), far fewer with several.
DETECTED = 4.0
NEGLIGIBLE = 0.01  # relative bias that is not called one: it may rest on rare paths that no batch had
# Options that make another estimator of the same name; the others have none here.
SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "trajectory_nelbo": (
        {"source": "forward"},
        {"source": "forward", "coupling": "antithetic"},
        {"source": "rollout", "replay": "drawn"},
        {"source": "rollout", "replay": "all"},
    ),
    "selection_replay": ({"replay": "drawn"}, {"replay": "all"}),
}
# Estimators whose draws differ by masked prompts alone, which this comparison has not, so that one is as good as many.
ALL_ALIKE = ("one_step",)


@dataclass(frozen=True)
class Variant:
    """An estimator with its options, as one row of the comparison."""

    name: str
    settings: str
    estimator: Likelihood

    @property
    def draws(self) -> int | None:
        """Number of draws, None where the rollout decides."""
        return None if "all" in self.settings.split() else self.estimator.num_draws

    @property
    def label(self) -> str:
        """Name, options, number of draws and ratio, in a line."""
        return f"{self.name} {self.settings} {self.draws} {self.estimator.ratio}"


def variants(names: list[str], numbers: list[int], generator: DiffusionGenerator) -> list[Variant]:
    """Every named estimator with each of its settings, at the numbers of draws that it accepts and its published one.

    `normalised`, `weighted` and `none` have one gradient at ratio 1; `plain` has another where fresh masks have
    weights, and is measured at the published number.

    Raises:
        ConfigError: an unknown name.
    """
    found = []
    for name in names:
        if name not in ESTIMATORS:
            raise ConfigError(f"--estimators {name!r}: expected some of {', '.join(ESTIMATORS)}")
        grid = generator.schedule.params
        if name == "selection_replay":
            grid |= {"temperature": generator.temperature, "block_length": generator.block_length}
        for settings in SETTINGS.get(name, ({},)):
            published = ESTIMATORS[name](**grid, **settings)
            for number in sorted({*numbers, published.num_draws}):
                one_is_enough = name in ALL_ALIKE or settings.get("replay") == "all"
                if one_is_enough and number != published.num_draws:
                    continue
                if published.source == "rollout" and number > generator.canvas_length:
                    continue  # there are not so many steps
                try:
                    own = ESTIMATORS[name](**grid, **settings, num_draws=number)
                except ValueError:  # not a number that this estimator can draw
                    continue
                found.append(Variant(name, " ".join(settings.values()), own))
            weighs = published.source == "forward" and "plain" in published.ratios and name not in ALL_ALIKE
            if weighs and "coupling" not in settings:  # couplings differ in noise alone
                plain = ESTIMATORS[name](**grid, **settings, ratio="plain")
                found.append(Variant(name, " ".join(settings.values()), plain))
    return found


@dataclass(frozen=True)
class Row:
    """What was measured of one estimator. Gradients are relative to the norm of the exact one; NaN: not measured.

    Attributes:
        estimator, settings, ratio, draws: what it is.
        forwards: states scored a sequence.
        bias, bias_low, bias_high: mean of estimate - log p, nats a completion, with its 95% interval over completions.
        bias_rms: root mean square over completions of an estimate's own bias, freed of Monte-Carlo noise.
        std: standard deviation of the estimate of one completion, nats; root mean square over completions.
        gradient_bias: norm of mean gradient - exact gradient; 0 where the estimate of its square is negative.
        gradient_bias_floor: what it must exceed to be told from 0.
        gradient_scale: mean gradient along the exact one; 1.5 is a step that is half as long again.
        cosine_of_mean: between mean and exact gradient, freed of Monte-Carlo noise.
        gradient_std: standard deviation of a batch's gradient, root of the trace of its covariance.
        batch_cosine: mean cosine between a batch's gradient and the exact one.
    """

    estimator: str
    settings: str
    ratio: str
    draws: int | None
    forwards: float
    bias: float
    bias_low: float
    bias_high: float
    bias_rms: float
    std: float
    gradient_bias: float = math.nan
    gradient_bias_floor: float = math.nan
    gradient_scale: float = math.nan
    cosine_of_mean: float = math.nan
    gradient_std: float = math.nan
    batch_cosine: float = math.nan

    @property
    def biased(self) -> bool:
        """Whether the gradient's bias can be told from 0."""
        return self.gradient_bias > self.gradient_bias_floor

    @classmethod
    def columns(cls) -> list[str]:
        """Headings of the CSV."""
        return [field.name for field in fields(cls)]


@dataclass(frozen=True)
class GradientTarget:
    """The exact gradient of the expected reward, averaged over prompts, and what it is the gradient of."""

    gradient: Float[Tensor, " D"]
    expected_rewards: Float[Tensor, " Q"]


@dataclass(frozen=True)
class Batch:
    """Rollouts, their advantages, and the gradient that the exact log-likelihood gives on them."""

    prompt: Int[Tensor, " N"]
    trajectory: Trajectory
    advantages: Float[Tensor, " N"]
    reinforce: Float[Tensor, " D"]


class Comparison:
    """The sampler and the problems on which estimators are compared.

    Args:
        generator: the production sampler on the enumerable model; gradients are with respect to its parameters.
        masking: the masking strategy on the generator's schedule.
        parameters: of the model.
        prompts, answers: (Q, P), (Q, L).
        seed: all randomness is a function of it and of what it is for.
    """

    def __init__(
        self,
        generator: DiffusionGenerator,
        masking: MaskingStrategy,
        parameters: list[torch.nn.Parameter],
        prompts: Int[Tensor, "Q P"],
        answers: Int[Tensor, "Q L"],
        seed: int,
    ):
        self.generator, self.masking, self.parameters = generator, masking, parameters
        self.prompts, self.answers, self.seed = prompts, answers, seed

    def roll_out(self, count: int, *purpose: int | str) -> tuple[Int[Tensor, " N"], Trajectory]:
        """``count`` completions of each problem: number of the problem of each row, and the rollouts."""
        problem = torch.arange(len(self.prompts)).repeat_interleave(count)
        asked = self.prompts[problem]
        return problem, self.generator.generate(asked, torch.ones_like(asked), generator_at(self.seed, *purpose))

    def log_likelihoods(self, problem: Int[Tensor, " N"], ids: Int[Tensor, "N L"]) -> Float[Tensor, " N"]:
        """Exact log p of completions, with gradient."""
        result = []
        for number in range(len(self.prompts)):
            different, which = ids[problem == number].unique(dim=0, return_inverse=True)
            table = state_table(self.generator, self.prompts[number], different)
            result.append(log_likelihoods(table, self.generator)[which])
        return torch.cat(result)  # rows are in order of problem

    def score(
        self,
        estimator: Likelihood,
        problem: Int[Tensor, " N"],
        trajectory: Trajectory,
        noise: torch.Generator,
    ) -> tuple[LikelihoodEstimate, int]:
        """One estimate of each rollout, from fresh draws, and the states a sequence that it took."""
        asked, ids = self.prompts[problem], estimator.canvas(trajectory)
        draws = estimator.draw(self.masking, len(ids), ids.size(1), asked.size(1), noise, trajectory=trajectory)
        found = estimator.score(
            self.generator.denoiser, asked, torch.ones_like(asked), ids, draws, self.generator.temperature
        )
        return found, draws.hidden.size(1)

    # ---- the likelihood --------------------------------------------------------------------------------------------

    def likelihood(self, variant: Variant, completions: int, repetitions: int) -> Row:
        """Bias and standard deviation of the sequence value; the same completions for every estimator."""
        problem, trajectory = self.roll_out(completions, "completions")
        noise, values, forwards = generator_at(self.seed, "draws", variant.label), [], 0
        with torch.no_grad():
            exact = self.log_likelihoods(problem, trajectory.ids)
            for _ in range(repetitions):
                found, forwards = self.score(variant.estimator, problem, trajectory, noise)
                values.append(-found.sequence_bound.double())
        errors = torch.stack(values) - exact  # (repetitions, N)
        mean, variance = errors.mean(dim=0), errors.var(dim=0)
        half = Z95 * mean.std().item() / math.sqrt(len(mean))  # completions are the independent units
        bias = mean.mean().item()
        return Row(
            estimator=variant.name,
            settings=variant.settings,
            ratio=variant.estimator.ratio,
            draws=variant.draws,
            forwards=forwards,
            bias=bias,
            bias_low=bias - half,
            bias_high=bias + half,
            bias_rms=(mean.square() - variance / repetitions).mean().clamp(min=0).sqrt().item(),
            std=variance.mean().sqrt().item(),
        )

    # ---- the gradient ----------------------------------------------------------------------------------------------

    def target(self) -> GradientTarget:
        """The gradient of the mean over problems of sum_x p(x) R(x), over all canvases: autograd through the law."""
        canvases = all_completions(ANSWER_TOKENS, self.generator.canvas_length)
        values, gradient = [], torch.zeros(())
        for prompt, answer in zip(self.prompts, self.answers, strict=True):
            logps = log_likelihoods(state_table(self.generator, prompt, canvases), self.generator)
            value = expected_reward(logps, rewards(canvases, answer))
            gradient = gradient + self.flat_gradient(value) / len(self.prompts)
            values.append(value.detach())
        return GradientTarget(gradient, torch.stack(values))

    def batches(self, target: GradientTarget, count: int, size: int) -> list[Batch]:
        """Batches of ``size`` rollouts, equally many of each problem."""
        found = []
        for number in range(count):
            problem, trajectory = self.roll_out(size // len(self.prompts), "batch", number)
            reward = rewards(trajectory.ids, self.answers[problem])
            advantages = reward - target.expected_rewards[problem]
            value = (advantages * self.log_likelihoods(problem, trajectory.ids)).mean()
            found.append(Batch(problem, trajectory, advantages, self.flat_gradient(value)))
        return found

    def gradients(self, variant: Variant, batches: list[Batch]) -> Float[Tensor, "n D"]:
        """The surrogate's gradient on each batch."""
        noise = generator_at(self.seed, "gradient draws", variant.label)
        found = []
        for batch in batches:
            estimate, _ = self.score(variant.estimator, batch.prompt, batch.trajectory, noise)
            found.append(self.flat_gradient(surrogate(estimate, batch.advantages)))
        return torch.stack(found)

    def flat_gradient(self, value: Tensor) -> Float[Tensor, " D"]:
        """d value / d parameters as one vector."""
        parts = torch.autograd.grad(value, self.parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])


def surrogate(estimate: LikelihoodEstimate, advantages: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """The trainer's objective at ratio 1, to be increased; negative advantages have their own values in some."""
    logps = by_sign(both_signs(estimate), advantages)
    return (advantages * (estimate.token_weight * logps).sum(dim=1)).mean()


def compare_gradients(
    row: Row, samples: Float[Tensor, "n D"], reinforce: Float[Tensor, "n D"], exact: Float[Tensor, " D"]
) -> Row:
    """Fill in what a row says of gradients.

    With d_b = sample_b - reinforce_b, the mean of d_b . d_c over pairs b != c is ||bias||^2 in expectation, without
    noise; if there is no bias its variance is 2 tr(C^2) / (n (n - 1)), C the covariance of d, estimated from the same
    pairs.
    """
    samples, reinforce, exact = samples.double(), reinforce.double(), exact.double()
    difference, norm, pairs = samples - reinforce, exact.norm(), len(samples) * (len(samples) - 1)
    mean = difference.mean(dim=0)
    bias_square = _off_diagonal(difference @ difference.T).sum() / pairs
    centred = difference - mean
    noise = (2 * _off_diagonal(centred @ centred.T).square().sum()).sqrt() / pairs
    along = (exact @ (exact + mean)) / norm**2
    length_square = norm**2 + 2 * exact @ mean + bias_square
    cosines = (samples @ exact) / (samples.norm(dim=1) * norm)
    return replace(
        row,
        gradient_bias=(bias_square.clamp(min=0).sqrt() / norm).item(),
        gradient_bias_floor=max(((DETECTED * noise).sqrt() / norm).item(), NEGLIGIBLE),
        gradient_scale=along.item(),
        cosine_of_mean=(along * norm / length_square.clamp(min=1e-12).sqrt()).clamp(-1, 1).item(),
        gradient_std=(samples.var(dim=0).sum().sqrt() / norm).item(),
        batch_cosine=cosines.mean().item(),
    )


def _off_diagonal(square: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return square - torch.diag(square.diagonal())


def reinforce_row(batches: list[Batch], target: GradientTarget) -> Row:
    """The floor: what rollouts alone cost, with the exact likelihood."""
    exact = Row(REINFORCE, "", "", None, math.nan, 0.0, 0.0, 0.0, 0.0, 0.0)
    samples = torch.stack([batch.reinforce for batch in batches])
    return compare_gradients(exact, samples, target.gradient.expand_as(samples), target.gradient)


def as_record(row: Row) -> dict[str, Any]:
    """A row for CSV and JSON; what was not measured is None."""
    values = {name: getattr(row, name) for name in Row.columns()}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
