"""The loss of flow matching: cross-entropy of the data at noisy embeddings.

    loss = mean over the B M states of  CE + beta1 ADR + beta2 FC

CE is the cross-entropy of the tokens at z, in nats a token: the objective of Lipman et al. 2023 (2210.02747), with the
posterior of the tokens in place of the velocity (ELF, 2605.10938). A state lies on the path, or the model itself has
*walked* to it from a noisier one, its *source*, with the same noise. ADR and FC are ReflexFlow's two terms at the
states that were walked to (`core.flow.reflexflow`).

An ODE gives no likelihood of tokens: this is for supervised training.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.alpha_schedule import AlphaSchedule
from core.denoisers import EmbeddingDenoiser
from core.flow.path import EmbeddingFlow, FlowDraws, check_noise_scale, gaussian, interpolate, velocity, walk
from core.flow.reflexflow import ReflexFlow, anti_drift, frequency_compensation, frequency_weight
from core.flow.solvers import check_solver, roll_out
from core.masking_strategy import MaskingStrategy, uniform


@dataclass(frozen=True)
class FlowEstimate:
    """What one scoring pass says; N of the B M states were rolled out, in row-major order.

    Attributes:
        loss: mean over all states of the cross-entropy and, where a state was rolled out, ReflexFlow's two terms, ().
            The loss of a batch is thus the mean of the losses of its rows.
        cross_entropy: nats a token, (B, M).
        anti_drift, frequency_compensation: ReflexFlow's terms without their weights, (N,); (0,) without ReflexFlow.
        exposure_bias: cross-entropy at the rolled-out state minus that at the clean state of the same noise, (N,),
            no gradient; (0,) without ReflexFlow, which pays for the forward that tells.
        rolled_out: states that the model walked to, (B, M).
        forwards: evaluations beside the one with gradient.
    """

    loss: Float[Tensor, ""]
    cross_entropy: Float[Tensor, "B M"]
    anti_drift: Float[Tensor, " N"]
    frequency_compensation: Float[Tensor, " N"]
    exposure_bias: Float[Tensor, " N"]
    rolled_out: Bool[Tensor, "B M"]
    forwards: int


class FlowMatchingLoss:
    """Cross-entropy of the data at noisy embeddings, drawn from the path or walked to by the model itself.

    Args:
        schedule: the noise levels.
        num_draws: M, states per sequence.
        noise_scale: s, standard deviation of the noise around the mask token's embedding.

    Raises:
        ValueError: impossible values.
    """

    def __init__(self, schedule: AlphaSchedule, num_draws: int = 2, noise_scale: float = 1.0):
        if num_draws < 1:
            raise ValueError(f"loss.num_draws={num_draws} must be at least 1")
        check_noise_scale(noise_scale)
        self.schedule, self.num_draws, self.noise_scale = schedule, num_draws, noise_scale

    def draw(
        self,
        masking: MaskingStrategy,
        batch_size: int,
        canvas_length: int,
        prompt_length: int,
        dim: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> FlowDraws:
        """Draw the states of one loss: timesteps stratified over the width measure, noise, masked prompt tokens.

        Args:
            masking: hides prompt tokens.
            batch_size, canvas_length, prompt_length, dim: B, L, P, d.
            generator: the only source of randomness.
            device: where the draws are to live.
        """
        jitter = uniform(batch_size, self.num_draws, generator=generator, device=device)
        share = (torch.arange(self.num_draws, device=device) + jitter) / self.num_draws
        prompt_u = uniform(batch_size, self.num_draws, prompt_length, generator=generator, device=device)
        return FlowDraws(
            timestep=self.schedule.transition_at(share.clamp(min=torch.finfo(share.dtype).tiny)),
            eps=gaussian(batch_size, self.num_draws, canvas_length, dim, generator=generator, device=device),
            prompt_hidden=masking.hide_prompt(prompt_u),
        )

    def score(
        self,
        denoiser: EmbeddingDenoiser,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        ids: Int[Tensor, "B L"],
        draws: FlowDraws,
        source: Int[Tensor, "B M"] | None = None,
        solver: str = "unipc",
        reflexflow: ReflexFlow | None = None,
        walker: EmbeddingDenoiser | None = None,
    ) -> FlowEstimate:
        """Score the canvas ``ids`` on the states of ``draws``: one forward of B * M rows with gradient.

        A state whose source is noisier than its timestep starts at the source, on the path with the same noise, and
        the model walks it to its timestep, level by level, in eval mode and without gradients.

        Args:
            denoiser: the model.
            prompt_ids, prompt_mask: (B, P), left-padded; padding is 0 in the mask.
            ids: the data, EOS tail included, (B, L).
            draws: from `draw`.
            source: timestep at which each state starts, no less than its own, (B, M); None: nothing is rolled out.
            solver: a key of `ODE_SOLVERS`, for the walk.
            reflexflow: weights of the two further losses at rolled-out states; None: cross-entropy alone.
            walker: the same weights for the forwards without gradient, whose number differs between processes (the
                model beneath its wrappers); None: ``denoiser`` itself.
        """
        check_solver("scheduled_sampling.sampler", solver)
        flow = self._flow(denoiser, prompt_ids, prompt_mask, draws)
        walking = replace(flow, denoiser=denoiser if walker is None else walker)
        targets = ids.repeat_interleave(self.num_draws, dim=0)  # (B*M, L), as everything from here on
        states, forwards = self._states(walking, targets, draws, source, solver)
        reference = None
        if reflexflow is not None and bool(states.moved.any()):
            reference, forwards = _logits_on_path(walking, states), forwards + 1
        logits = flow.logits(states.z)
        cross_entropy = _cross_entropy(logits, targets)
        total = cross_entropy.sum()
        drift = compensation = bias = cross_entropy.new_zeros(0)
        if reflexflow is not None and reference is not None:
            drift, compensation = _reflex_terms(flow, states, logits[states.moved], reference, reflexflow.alpha)
            bias = (cross_entropy[states.moved] - _cross_entropy(reference, targets[states.moved])).detach()
            total = total + reflexflow.beta1 * drift.sum() + reflexflow.beta2 * compensation.sum()
        return FlowEstimate(
            loss=total / len(targets),
            cross_entropy=cross_entropy.view(draws.timestep.shape),
            anti_drift=drift,
            frequency_compensation=compensation,
            exposure_bias=bias,
            rolled_out=states.moved.view(draws.timestep.shape),
            forwards=forwards,
        )

    def _flow(
        self, denoiser: EmbeddingDenoiser, prompt_ids: Int[Tensor, "B P"], prompt_mask: Tensor, draws: FlowDraws
    ) -> EmbeddingFlow:
        """The denoiser under the prompts of all B * M states, their hidden tokens masked."""
        hidden = draws.prompt_hidden & prompt_mask.bool().unsqueeze(1)
        prompts = torch.where(hidden, denoiser.mask_id, prompt_ids.unsqueeze(1)).flatten(0, 1)
        attention_mask = prompt_mask.repeat_interleave(self.num_draws, dim=0)
        return EmbeddingFlow(denoiser, prompts, attention_mask, denoiser.embedding_table(), self.noise_scale)

    def _states(
        self,
        flow: EmbeddingFlow,
        targets: Int[Tensor, "N L"],
        draws: FlowDraws,
        source: Int[Tensor, "B M"] | None,
        solver: str,
    ) -> tuple["_States", int]:
        """The states to train at, and the evaluations spent on walking to them."""
        clean, noise = flow.table[targets], flow.noise(draws.eps.flatten(0, 1))
        sigma = self.schedule.mask_prob(draws.timestep).flatten()
        start = sigma if source is None else self.schedule.mask_prob(source).flatten()
        if bool((start < sigma).any()):
            raise ValueError("a rollout goes from noise to data: its source must be at least its timestep")
        on_path, moved = interpolate(clean, noise, sigma), start > sigma
        z, forwards = on_path, 0
        if bool(moved.any()):
            begin = interpolate(clean[moved], noise[moved], start[moved])  # the same noise, at the source
            levels_down = walk(self.schedule, start[moved], sigma[moved])
            arrived, forwards = roll_out(flow.rows(moved), begin, levels_down, solver)
            z = on_path.masked_scatter(moved.view(-1, 1, 1), arrived)
        return _States(clean, on_path, z, sigma, moved), forwards


@dataclass(frozen=True)
class _States:
    """N states: the data, z on the path from it, z as the network gets it, sigma, and where the two z differ."""

    clean: Float[Tensor, "N L d"]
    on_path: Float[Tensor, "N L d"]
    z: Float[Tensor, "N L d"]
    sigma: Float[Tensor, " N"]
    moved: Bool[Tensor, " N"]


def _cross_entropy(logits: Float[Tensor, "N L V"], targets: Int[Tensor, "N L"]) -> Float[Tensor, " N"]:
    """Mean over the canvas of -log p[x0]."""
    return nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)


@torch.no_grad()
def _logits_on_path(flow: EmbeddingFlow, states: _States) -> Float[Tensor, "R L V"]:
    """The posteriors at the states of the path that the R walked ones left.

    In the mode of the forward with gradient, which it is compared with, and before it: DDP broadcasts buffers at the
    first forward of a step.
    """
    return flow.rows(states.moved).logits(states.on_path[states.moved])


def _reflex_terms(
    flow: EmbeddingFlow,
    states: _States,
    logits: Float[Tensor, "R L V"],
    reference: Float[Tensor, "R L V"],
    alpha: float,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """ADR and FC of the R states that moved, from the logits there and those at the same states of the path."""
    clean, on_path, z, sigma = (part[states.moved] for part in (states.clean, states.on_path, states.z, states.sigma))
    ours = velocity(z, flow.expected(logits), sigma)
    bias = velocity(on_path, flow.expected(reference), sigma) - ours
    compensation = frequency_compensation(ours, velocity(on_path, clean, sigma), frequency_weight(bias, sigma, alpha))
    return anti_drift(ours, z, clean), compensation
