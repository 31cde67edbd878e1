"""A comparison: the sampler and the problems, and what one estimator is on them.

A *variant* is scored on rollouts of the sampler. `Comparison` gives its errors on single completions and its gradients
on batches; `gradients` makes bias and spread of the latter.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.generator import DiffusionGenerator
from core.masking_strategy import MaskingStrategy
from core.oracles.sampler_law import all_completions, expected_reward, log_likelihoods, state_table
from core.scoring import Likelihood, LikelihoodEstimate, both_signs, by_sign
from core.trajectory import Trajectory
from trainers.distributed.randomness import generator_at
from trainers.evaluating.statistics import Z95
from trainers.studies.estimators.enumerable import ANSWER_TOKENS, rewards
from trainers.studies.estimators.rows import Row
from trainers.studies.estimators.variants import Variant


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
        return likelihood_row(variant, forwards, torch.stack(values) - exact)

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


def likelihood_row(variant: Variant, forwards: int, errors: Float[Tensor, "R N"]) -> Row:
    """What R estimates of each of N completions say, from estimate - exact value."""
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
        bias_rms=(mean.square() - variance / len(errors)).mean().clamp(min=0).sqrt().item(),
        std=variance.mean().sqrt().item(),
    )


def surrogate(estimate: LikelihoodEstimate, advantages: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """The trainer's objective at ratio 1, to be increased; negative advantages have their own values in some."""
    logps = by_sign(both_signs(estimate), advantages)
    return (advantages * (estimate.token_weight * logps).sum(dim=1)).mean()
