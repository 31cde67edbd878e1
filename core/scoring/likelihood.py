"""What every policy likelihood shares: states drawn once, scored as often as asked, and what goes into a ratio.

A masked diffusion model has no cheap exact log-likelihood. Each estimator looks at M *states* (the completion with
some tokens hidden), lets the model predict hidden tokens, and adds up their log-probabilities with weights. Only how
states are drawn and weighted differs, and that is what a subclass says; see `core.nelbo` and
`core.likelihoods`.

The *sequence value*, the weighted sum, is kept apart from what goes into an importance *ratio* or a KL. With w_m the
weight of draw m and l_mk = log p(token k | state m) where draw m scores token k, the choices of `RATIOS` are:

    normalised  per token sum_m w_m l_mk / sum_m w_m, and the loss counts the token sum_m w_m times. Before an update
                the gradient is that of the sequence value, exactly; the ratio is an average of bounded ratios.
    weighted    per token sum_m w_m l_mk, counted once: what most papers write. The same gradient before an update, but
                a weight of 1 / mask_prob then stands in the exponent of the ratio, and in k3's exp.
    plain       per token the mean of l_mk, and the tokens that were scored share the canvas: no weights at all. Low
                variance; the gradient is that of another sum than the bound's, with every noise level counted equally.
    none        as normalised, without a ratio: the loss is A log p (wd1, SPG), also after updates.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoisers.attention import noisy_and_clean
from core.denoisers.denoiser import Denoiser
from core.denoisers.projection import of_targets
from core.masking_strategy import MaskingStrategy
from core.scoring.share import WHOLE, Share
from core.scoring.streaming import streamed
from core.trajectory import Trajectory

RATIOS = ("normalised", "weighted", "plain", "none")

Noise = Callable[..., Tensor]  # shape without the batch axis -> uniforms with it, (B, *shape)


@dataclass(frozen=True)
class Draws:
    """All randomness of one estimate, batch first, so that it can travel in a batch dictionary and be split by rows.

    Attributes (with an iteration axis I behind B where `stack` made one):
        hidden: completion tokens masked in each of the M states, (B, M, L).
        scored: those of them whose log-prob counts, (B, M, L): all (fresh masks), or those of one step (replay).
        prompt_hidden: masked prompt tokens, (B, M, P).
        weight: weight of each draw in the sequence value, (B, M); sums over draws, 1/M included.
        variance_factor: 1 - K / S where K of S steps were drawn without replacement, else 1, (B,).
        timestep: timestep of each state on the closed grid, or its replayed step, (B, M); where there is either.
        u: the uniform number of each token that decided ``hidden``, (B, M, L); only where states are drawn by
            timestep. It stays where it was drawn: `to_dict` leaves it out.
        shown: the tokens at visible positions where these are not the scored text's own, (B, M, L), and
        rolled_out: the sequences that were offered such states, (B,); see `core.scheduled_sampling`.
        candidates: hidden tokens that the selection rule chose among, (B, M, L); see `estimators.SelectionReplay`.
    """

    hidden: Bool[Tensor, "B *I M L"]
    scored: Bool[Tensor, "B *I M L"]
    prompt_hidden: Bool[Tensor, "B *I M P"]
    weight: Float[Tensor, "B *I M"]
    variance_factor: Float[Tensor, "B *I"]
    timestep: Int[Tensor, "B *I M"] | None = None
    u: Float[Tensor, "B *I M L"] | None = None
    shown: Int[Tensor, "B *I M L"] | None = None
    rolled_out: Bool[Tensor, "B *I"] | None = None
    candidates: Bool[Tensor, "B *I M L"] | None = None

    def to_dict(self, prefix: str) -> dict[str, Tensor]:
        """Fields under prefixed keys, for a batch dictionary."""
        return {prefix + name: value for name, value in self._tensors().items() if name != "u"}

    @classmethod
    def from_dict(cls, batch: dict[str, Any], prefix: str) -> "Draws":
        """The inverse of `to_dict`."""
        names = (field.name for field in fields(cls))
        return cls(**{name: batch[prefix + name] for name in names if prefix + name in batch})

    @classmethod
    def stack(cls, draws: "list[Draws]") -> "Draws":
        """I draws of the same batch as one record with an iteration axis behind the batch axis: (B, I, ...)."""
        return cls(**{name: torch.stack([getattr(d, name) for d in draws], dim=1) for name in draws[0]._tensors()})

    @classmethod
    def cat(cls, parts: "list[Draws]") -> "Draws":
        """The draws of consecutive rows as one record."""
        return cls(**{name: torch.cat([getattr(d, name) for d in parts]) for name in parts[0]._tensors()})

    def iteration(self, i: int) -> "Draws":
        """Undo `stack`: the draws of iteration i."""
        return Draws(**{name: value[:, i] for name, value in self._tensors().items()})

    def rows(self, rows: slice | Tensor) -> "Draws":
        """The draws of some rows (a slice, an index or a mask)."""
        return Draws(**{name: value[rows] for name, value in self._tensors().items()})

    def apart(self) -> "Draws":
        """Every state as a row of its own: (B * M, 1, ...) in place of (B, M, ...)."""
        num_states, per_row = self.hidden.size(1), ("variance_factor", "rolled_out")
        return Draws(
            **{
                name: value.repeat_interleave(num_states) if name in per_row else value.flatten(0, 1).unsqueeze(1)
                for name, value in self._tensors().items()
            }
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class LikelihoodEstimate:
    """What one scoring pass says; everything float32, nats.

    Attributes:
        sequence_bound: estimate of -log p(completion | prompt), (B,); an upper bound in expectation where the
            estimator is a bound.
        token_bound: its split over tokens, (B, L); sums to `sequence_bound`.
        standard_error: Monte-Carlo standard error of `sequence_bound` given the completion, (B,); 0 where nothing was
            left to chance, NaN where the draws cannot tell.
        per_token_logps: log-probability of each token as it enters ratio and KL, (B, L); 0 where no draw scored it.
        entropies: mean entropy of the distribution in the draws that scored the token, (B, L).
        token_weight: how many tokens each token stands for, (B, L); use as a loss mask.
        negative_logps: what takes the place of `per_token_logps` where the advantage is negative, (B, L); the same but
            for `estimators.Sandwich`.
    """

    sequence_bound: Float[Tensor, " B"]
    token_bound: Float[Tensor, "B L"]
    standard_error: Float[Tensor, " B"]
    per_token_logps: Float[Tensor, "B L"]
    entropies: Float[Tensor, "B L"]
    token_weight: Float[Tensor, "B L"]
    negative_logps: Float[Tensor, "B L"]


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
    ratios: ClassVar[tuple[str, ...]] = RATIOS  # the first is the estimator's own choice
    source: str = "forward"  # whether states are fresh masks or the rollout's own
    replays_steps: bool = False  # whether each token is scored in the very state in which the rollout committed it
    states_per_forward: int | None = (
        None  # None: all B * M at once (packed); n: n at a time, see `core.scoring.streaming`
    )

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
        # parts differ in their longest prompt and, where all steps are replayed, in states: numbers for the largest
        states = most = drawn["hidden"].size(1)
        longest = prompt_length
        if masking.p_mask_prompt > 0:
            most, longest = share.largest(states), share.largest(prompt_length)
        drawn["prompt_hidden"] = masking.hide_prompt(noise(most, longest))[:, :states, longest - prompt_length :]
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
        weighted = (logps * draws.weight.unsqueeze(2)).sum(dim=1)
        times_scored = draws.scored.sum(dim=1).clamp(min=1)
        if self.ratio == "weighted":
            per_token = weighted
        elif self.ratio == "plain":
            per_token = logps.sum(dim=1) / times_scored
        else:
            weight, total = draws.weight.unsqueeze(2), total_weight(draws).unsqueeze(1)
            # divided first: the share of a token's only draw is then 1, exactly
            per_token = (logps * (weight / torch.where(total > 0, total, 1.0))).sum(dim=1)
        terms = -(logps.detach() * draws.weight.unsqueeze(2)).sum(dim=2)
        return LikelihoodEstimate(
            sequence_bound=-weighted.sum(dim=1),
            token_bound=-weighted,
            standard_error=self._standard_error(terms, draws),
            per_token_logps=per_token,
            entropies=entropies.sum(dim=1) / times_scored,
            token_weight=self.token_weight(draws),
            negative_logps=per_token,
        )

    def token_weight(self, draws: Draws) -> Float[Tensor, "B L"]:
        """How often the loss counts each token, (B, L); see the module's docstring."""
        if self.ratio == "weighted":
            return torch.ones_like(draws.scored[:, 0], dtype=torch.float32)
        return self.plain_weight(draws) if self.ratio == "plain" else total_weight(draws)

    def plain_weight(self, draws: Draws) -> Float[Tensor, "B L"]:
        """Weights without the draws' own: every token has the same chance to be scored at least once, so those that
        were share the canvas."""
        seen = draws.scored.any(dim=1).float()
        return seen * seen.size(1) / seen.sum(dim=1, keepdim=True).clamp(min=1)

    def _standard_error(self, terms: Float[Tensor, "B M"], draws: Draws) -> Float[Tensor, " B"]:
        """Standard error of the sum over draws, from the spread between its independent units, with the
        finite-population factor; rows whose every step was drawn have none."""
        units = terms.unflatten(1, (self.num_groups(terms.size(1)), -1)).sum(dim=2)
        count = units.size(1)
        spread = math.sqrt(count) * units.std(dim=1) if count > 1 else torch.full_like(terms[:, 0], math.nan)
        return torch.where(draws.variance_factor > 0, spread * draws.variance_factor.sqrt(), 0.0)

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


def both_signs(estimate: LikelihoodEstimate) -> Float[Tensor, "B 2 L"]:
    """Per-token log-probs for completions of positive and of negative advantage, (B, 2, L)."""
    return torch.stack([estimate.per_token_logps, estimate.negative_logps], dim=1)


def by_sign(logps: Float[Tensor, "B 2 C"], advantages: Float[Tensor, " B"]) -> Float[Tensor, "B C"]:
    """Of `both_signs`, what each row's advantage asks for, (B, C)."""
    return torch.where((advantages < 0).unsqueeze(1), logps[:, 1], logps[:, 0])


def targets(ids: Int[Tensor, "B L"], where: Bool[Tensor, "B M L"]) -> Int[Tensor, " R"]:
    return ids.unsqueeze(1).expand_as(where)[where]


def scatter(values: Float[Tensor, " R"], where: Bool[Tensor, "B M L"]) -> Float[Tensor, "B M L"]:
    return values.new_zeros(where.shape).masked_scatter(where, values)


def total_weight(draws: Draws) -> Float[Tensor, "B L"]:
    """The weights of the draws that scored each token, summed: how many tokens it stands for."""
    return (draws.scored * draws.weight.unsqueeze(2)).sum(dim=1)


def noisy_prompts(
    prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor, draws: Draws, mask_id: int
) -> Int[Tensor, "B M P"]:
    """The prompt of every state: masked where drawn so, padding left alone."""
    return torch.where(draws.prompt_hidden & prompt_mask.bool().unsqueeze(1), mask_id, prompt_ids.unsqueeze(1))


def predict_states(
    denoiser: Denoiser,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Tensor,
    ids: Int[Tensor, "B L"],
    draws: Draws,
    where: Bool[Tensor, "B M L"],
) -> Float[Tensor, "R V"]:
    """Logits at R positions ``where`` of the states of ``draws``, in row-major order: one forward of B * M rows."""
    return denoiser.logits(**state_inputs(denoiser, prompt_ids, prompt_mask, ids, draws, where))


def state_inputs(
    denoiser: Denoiser,
    prompt_ids: Int[Tensor, "B P"],
    prompt_mask: Tensor,
    ids: Int[Tensor, "B L"],
    draws: Draws,
    where: Bool[Tensor, "B M L"],
) -> dict[str, Tensor]:
    """The arguments of `Denoiser.logits` that ask for the positions ``where`` of the states of ``draws``, each with
    B * M rows."""
    visible = ids.unsqueeze(1) if draws.shown is None else draws.shown
    canvases = torch.where(draws.hidden, denoiser.mask_id, visible)
    prompts = noisy_prompts(prompt_ids, prompt_mask, draws, denoiser.mask_id)
    states = torch.cat([prompts, canvases], dim=2).flatten(0, 1)  # (B*M, P+L)
    rows = torch.cat([torch.zeros_like(draws.prompt_hidden), where], dim=2).flatten(0, 1)
    num_states = draws.hidden.size(1)
    if denoiser.block_length is not None:
        rule = noisy_and_clean(prompt_mask, ids.size(1), denoiser.block_length, denoiser.prompt_in_blocks)
        return _beside_clean_text(states, rows, rule, ids, num_states, denoiser.block_length)
    attention_mask = torch.cat([prompt_mask, torch.ones_like(ids, dtype=prompt_mask.dtype)], dim=1)
    return {"ids": states, "attention_mask": attention_mask.repeat_interleave(num_states, dim=0), "rows": rows}


def _beside_clean_text(
    states: Int[Tensor, "S N"],
    rows: Bool[Tensor, "S N"],
    rule: Bool[Tensor, "B K K"],
    ids: Int[Tensor, "B L"],
    num_states: int,
    block_length: int,
) -> dict[str, Tensor]:
    """For a block-causal model: [prompt | noisy canvas] becomes [prompt | noisy canvas | clean canvas], so that one
    forward predicts each block from its own noisy tokens and from clean ones before it (BD3-LM, 2503.09573, section
    4). Of the clean canvas, at the same positions as the noisy one, the last block is left out: nobody sees it.
    """
    past = ids.size(1) - block_length
    clean = ids[:, :past].repeat_interleave(num_states, dim=0)
    positions = torch.arange(states.size(1), device=ids.device)
    positions = torch.cat([positions, positions[-ids.size(1) :][:past]])
    return {
        "ids": torch.cat([states, clean], dim=1),
        "attention_mask": rule.repeat_interleave(num_states, dim=0),
        "rows": torch.cat([rows, torch.zeros_like(clean, dtype=torch.bool)], dim=1),
        "position_ids": positions.expand(states.size(0), -1),
    }
