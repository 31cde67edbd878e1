"""What every policy likelihood shares: states drawn once, scored as often as asked.

A masked diffusion model has no cheap exact log-likelihood. Each estimator looks at M *states* (the completion with
some tokens hidden), lets the model predict hidden tokens, and adds up their log-probabilities with weights:

    value = sum_m w_m sum over scored k of l_mk,    l_mk = log p(token k | state m)

Only how states are drawn and weighted differs, and that is what a subclass says: `core.nelbo`, `core.likelihoods`.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoisers import Denoiser
from core.denoisers.projection import of_targets
from core.masking_strategy import MaskingStrategy
from core.scoring.draws import Draws, Noise
from core.scoring.estimate import LikelihoodEstimate, standard_error
from core.scoring.ratios import RATIOS, once, plain, shared_canvas, total_weight, weighted
from core.scoring.share import WHOLE, Share
from core.scoring.states import scatter, state_inputs, targets
from core.scoring.streaming import streamed
from core.trajectory import Trajectory


class Likelihood(ABC):
    """Draws states once, scores them as often as asked: the same `Draws` for old, reference and current policy.

    A subclass says how states are drawn (`draw_states`) and, in its docstring, what that estimates, from which paper,
    and at how many forwards a sequence.

    Args:
        max_timesteps, alpha_schedule, alpha_min, alpha_max: the run's one noise schedule, see `AlphaSchedule`.
        num_draws: M, states per sequence; None: the estimator's own number.
        ratio: what goes into the importance ratio, one of `RATIOS`; None: the estimator's own choice.

    Raises:
        ValueError: unknown names or impossible values.
    """

    default_draws: ClassVar[int]
    ratios: ClassVar[tuple[str, ...]] = tuple(RATIOS)  # the first is the estimator's own choice
    source: str = "forward"  # whether states are fresh masks or the rollout's own
    replays_steps: bool = False  # whether each token is scored in the very state in which the rollout committed it
    states_per_forward: int | None = None  # None: all B * M at once; n: n at a time, see `core.scoring.streaming`

    def __init__(
        self,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
        num_draws: int | None = None,
        ratio: str | None = None,
    ):
        self.num_draws = self.default_draws if num_draws is None else num_draws
        self.ratio = self.ratios[0] if ratio is None else ratio
        if self.ratio not in self.ratios:
            raise ValueError(f"loss.ratio={ratio!r}: expected one of {', '.join(self.ratios)}")
        allowed = self.allowed_draws()
        if self.num_draws < 1 or allowed is not None:
            raise ValueError(f"loss.num_draws={self.num_draws}: expected {allowed or 'at least 1'}")
        self.schedule = AlphaSchedule(alpha_schedule, max_timesteps, alpha_min, alpha_max)

    def allowed_draws(self) -> str | None:
        """None if `num_draws` will do, else what would."""
        return None

    def num_groups(self, states: int) -> int:
        """Independent replicates among so many states, consecutive and of equal size, for the standard error; 1 gives
        none."""
        return states

    def get_performance_stats(self) -> dict[str, Any]:
        """The schedule's parameters and how states are drawn."""
        return {**self.schedule.params, "num_draws": self.num_draws, "ratio": self.ratio, "source": self.source}

    def canvas(self, trajectory: Trajectory) -> Int[Tensor, "B L"]:
        """The tokens to score: as the sampler left them (rollout), or the text with its EOS tail (forward)."""
        return trajectory.ids if self.source == "rollout" else trajectory.completion_ids

    # ---- drawing -------------------------------------------------------------------------------------------------

    @abstractmethod
    def draw_states(
        self, masking: MaskingStrategy, length: int, noise: Noise, trajectory: Trajectory | None
    ) -> dict[str, Tensor]:
        """The fields of `Draws` on the CPU, but those of the prompt; all randomness from ``noise``, which also knows
        the batch size. Without `variance_factor` it is 1, without `scored` all that is hidden."""

    def draw(
        self,
        masking: MaskingStrategy,
        batch_size: int,
        canvas_length: int,
        prompt_length: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        trajectory: Trajectory | None = None,
        share: Share = WHOLE,
    ) -> Draws:
        """Draw the states of one estimate.

        Args:
            masking: hides the tokens; must hold the schedule of this loss (`sync_masking_with_nelbo`).
            batch_size, canvas_length, prompt_length: B, L, P.
            generator: the only source of randomness.
            device: where the draws are to live.
            trajectory: the recorded rollout; required by estimators that replay it.
            share: which part of a global batch this is: the parts get the masks that the whole would have got, given
                equal generators.
        """
        noise = partial(share.uniform, batch_size, generator=generator)
        drawn = self.draw_states(masking, canvas_length, noise, trajectory)
        drawn.setdefault("scored", drawn["hidden"])
        drawn.setdefault("variance_factor", torch.ones(batch_size))
        drawn["weight"] = drawn["weight"].float()
        states = drawn["hidden"].size(1)
        drawn["prompt_hidden"] = _hidden_prompts(masking, states, prompt_length, noise, share)
        return Draws(**{key: value.to(device) for key, value in drawn.items()})

    # ---- scoring -------------------------------------------------------------------------------------------------

    def predicted(self, draws: Draws) -> Bool[Tensor, "B M L"]:
        """The positions whose distributions an estimate needs."""
        return draws.scored

    def score(
        self,
        denoiser: Denoiser,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        draws: Draws,
        temperature: float = 1.0,
    ) -> LikelihoodEstimate:
        """Score the canvas ``ids`` on the states of ``draws``: one forward of B * M rows, or of `states_per_forward`
        at a time.

        Args:
            denoiser: the model.
            prompt_ids, prompt_mask: (B, P), left-padded; padding is 0 in the mask.
            ids: the whole canvas, EOS tail included, (B, L).
            draws: from `draw`.
            temperature: of the policy whose log-probs are wanted.
        """
        return self.combine(*self.evaluate_all(denoiser, prompt_ids, prompt_mask, ids, draws, temperature), draws)

    def evaluate_all(
        self,
        denoiser: Denoiser,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        draws: Draws,
        temperature: float = 1.0,
    ) -> tuple[Float[Tensor, "B M L"], Float[Tensor, "B M L"]]:
        """What `score` puts together: `evaluate`, in forwards of `states_per_forward`."""
        rows, states, _ = draws.hidden.shape
        group = self.states_per_forward
        if group is None or group >= rows * states:
            return self.evaluate(denoiser, prompt_ids, prompt_mask, ids, draws, temperature)
        apart = draws.apart()
        row = torch.arange(rows, device=ids.device).repeat_interleave(states)

        def evaluate(denoiser: Denoiser, some: slice) -> tuple[Tensor, Tensor]:
            of = row[some]
            batch = prompt_ids[of], prompt_mask[of], ids[of]
            return self.evaluate(denoiser, *batch, apart.rows(some), temperature)

        logps, entropies = (values.view_as(draws.hidden) for values in streamed(evaluate, denoiser, len(row), group))
        return logps, entropies

    def evaluate(
        self,
        denoiser: Denoiser,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        draws: Draws,
        temperature: float,
    ) -> tuple[Float[Tensor, "B M L"], Float[Tensor, "B M L"]]:
        """Log-probability of every scored token in every state and the entropy of its distribution, 0 elsewhere: one
        forward. A state is looked at by itself, so that they may come in any groups."""
        asked = state_inputs(denoiser, prompt_ids, prompt_mask, ids, draws, draws.scored)
        found = denoiser.token_logps(**asked, targets=targets(ids, draws.scored), temperature=temperature)
        return scatter(found[0], draws.scored), scatter(found[1], draws.scored)

    def estimate(self, all_logps: Float[Tensor, "R V"], ids: Int[Tensor, "B L"], draws: Draws) -> LikelihoodEstimate:
        """The estimate from the policy's log-probabilities at the R `predicted` positions of ``draws``, in row-major
        order."""
        return self.combine(*self.from_distributions(all_logps, ids, draws), draws)

    def from_distributions(
        self, all_logps: Float[Tensor, "R V"], ids: Int[Tensor, "B L"], draws: Draws
    ) -> tuple[Float[Tensor, "B M L"], Float[Tensor, "B M L"]]:
        """`evaluate`, where the log-probabilities of all tokens are there already."""
        logps, entropies = of_targets(all_logps, targets(ids, draws.scored))
        return scatter(logps, draws.scored), scatter(entropies, draws.scored)

    def combine(
        self, logps: Float[Tensor, "B M L"], entropies: Float[Tensor, "B M L"], draws: Draws
    ) -> LikelihoodEstimate:
        """The estimate from the log-probabilities of the scored tokens, 0 elsewhere."""
        token_value = weighted(logps, draws)
        per_token = RATIOS[self.ratio](logps, draws)
        terms = -(logps.detach() * draws.weight.unsqueeze(2)).sum(dim=2)
        return LikelihoodEstimate(
            sequence_bound=-token_value.sum(dim=1),
            token_bound=-token_value,
            standard_error=standard_error(terms, self.num_groups(terms.size(1)), draws.variance_factor),
            per_token_logps=per_token,
            entropies=plain(entropies, draws),
            token_weight=self.token_weight(draws),
            negative_logps=per_token,
        )

    def token_weight(self, draws: Draws) -> Float[Tensor, "B L"]:
        """How often the loss counts each token, (B, L); see `core.scoring.ratios`."""
        if self.ratio == "weighted":
            return once(draws)
        return self.plain_weight(draws) if self.ratio == "plain" else total_weight(draws)

    def plain_weight(self, draws: Draws) -> Float[Tensor, "B L"]:
        """The same for ratio plain, (B, L)."""
        return shared_canvas(draws)

    def __call__(
        self,
        denoiser: Denoiser,
        masking: MaskingStrategy,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        generator: torch.Generator,
        trajectory: Trajectory | None = None,
        temperature: float = 1.0,
    ) -> LikelihoodEstimate:
        """Draw and score in one go, for training on given text."""
        draws = self.draw(masking, ids.size(0), ids.size(1), prompt_ids.size(1), generator, ids.device, trajectory)
        return self.score(denoiser, prompt_ids, prompt_mask, ids, draws, temperature)


def _hidden_prompts(
    masking: MaskingStrategy, states: int, prompt_length: int, noise: Noise, share: Share
) -> Bool[Tensor, "B M P"]:
    """Which prompt tokens each state hides."""
    most, longest = states, prompt_length
    if masking.p_mask_prompt > 0:
        # parts differ in their longest prompt and, where all steps are replayed, in states: numbers for the largest
        most, longest = share.largest(states), share.largest(prompt_length)
    return masking.hide_prompt(noise(most, longest))[:, :states, longest - prompt_length :]
