"""What one SFT micro-step minimises: the bound of noised text, or the losses of a flow over embeddings.

Both draw their noise from the one schedule and, with scheduled sampling, move some of their states to where the
model's own denoising leads. An objective returns a loss in nats per canvas token and numbers for the log.
"""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.denoisers.annealed_denoiser import AnnealedDenoiser
from core.denoisers.attention import annealed
from core.denoisers.denoiser import Denoiser, EmbeddingDenoiser, tempered_logps
from core.flow import FlowDraws, FlowEstimate, FlowMatchingLoss
from core.flow.reflexflow import masked_anti_drift, masked_frequency_compensation, visible_anti_drift
from core.masking_strategy import MaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.scheduled_sampling import RollOut, ScheduledSampling
from core.scoring import Draws, LikelihoodEstimate, Share, predict_states
from trainers.distributed.randomness import generator_at
from trainers.exposure import SCHEDULED, bounds_apart, rollout_metrics
from trainers.models.caching import RULES
from trainers.models.policy import Policy, token_embedding, vocabulary_head
from trainers.settings.objects import build_reflexflow, build_scheduled_sampling
from trainers.settings.options import ConfigError, only_with, require
from trainers.settings.sft import DiffusionSFTConfig

Objected = tuple[Tensor, dict[str, float]]


@dataclass(frozen=True)
class MicroStep:
    """Where a batch stands in a run, and the two ways to call the model.

    Attributes:
        position: where in the run this is: all that randomness may depend on, beside the row of the global batch.
        share: which of these rows there are here.
        step: optimiser step; None in evaluation, where states are never rolled out.
        measure: whether to spend two forwards on the exposure bias.
        denoiser: the model in training, gradients included.
        walker: the same weights beneath their wrappers, for rollouts whose number of forwards differs by rank.
    """

    position: tuple[int | str, ...]
    share: Share
    step: int | None
    measure: bool
    denoiser: EmbeddingDenoiser
    walker: EmbeddingDenoiser


class Objective(ABC):
    """Batch in, loss and metrics out."""

    def __init__(
        self, args: DiffusionSFTConfig, nelbo_loss: TrajectoryNELBOLoss, masking: MaskingStrategy, policy: Policy
    ):
        self.args, self.nelbo_loss, self.masking, self.policy = args, nelbo_loss, masking, policy
        self.scheduled: ScheduledSampling = build_scheduled_sampling(args)
        self.reflexflow = build_reflexflow(args)
        alone = args.prediction_type == "masked" and not self.scheduled.active
        reason = "masked text and no scheduled sampling: other losses are not scored in groups"
        only_with(args, ["states_per_forward", "memory_budget_gib"], alone, reason)

    @abstractmethod
    def __call__(self, at: MicroStep, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor) -> Objected:
        """Prompts (B, P) with their mask, and canvases (B, L)."""


class MaskedObjective(Objective):
    """The NELBO per canvas token; ReflexFlow, a loss at wrong visible tokens and annealed attention on demand."""

    def __init__(
        self, args: DiffusionSFTConfig, nelbo_loss: TrajectoryNELBOLoss, masking: MaskingStrategy, policy: Policy
    ):
        super().__init__(args, nelbo_loss, masking, policy)
        if args.attention_annealing_steps > 0:
            _check_annealed(args, policy)

    def __call__(self, at: MicroStep, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor) -> Objected:
        batch = (prompt_ids, prompt_mask, ids)
        draws = self.nelbo_loss.draw(
            self.masking,
            *ids.shape,
            prompt_ids.size(1),
            generator_at(*at.position, 0),
            ids.device,
            share=at.share,
        )
        if at.step is None or not self.scheduled.active:
            denoiser, metrics = self._annealed(at, prompt_ids.size(1) + ids.size(1), ids.device)
            estimate = self.nelbo_loss.score(denoiser, *batch, draws, self.args.temperature)
            metrics["nelbo"] = estimate.sequence_bound.mean().item()
            return estimate.sequence_bound.mean() / ids.size(1), metrics

        noise = generator_at(*at.position, 0, "scheduled_sampling", device=ids.device)
        started = time.perf_counter()
        assert draws.timestep is not None
        timestep, most = at.share.gather(draws.timestep), self.nelbo_loss.schedule.max_timesteps
        departures = self.scheduled.depart(timestep, most, at.step, noise).rows(at.share.own(len(ids)))
        rollout = self.scheduled.roll_out(
            at.walker, self.masking, *batch, draws, at.step, departures, self.args.temperature
        )
        seconds, draws = time.perf_counter() - started, rollout.draws
        assert draws.rolled_out is not None
        estimate, further, found = self._at_states(at, batch, rollout)
        metrics = rollout_metrics(
            rollout,
            self.scheduled,
            at.step,
            seconds,
            at.measure,
            self.nelbo_loss,
            at.walker,
            batch,
            self.args.temperature,
        )
        metrics |= bounds_apart(estimate.sequence_bound.detach(), draws.rolled_out) | found
        return estimate.sequence_bound.mean() / ids.size(1) + further, metrics

    def _annealed(self, at: MicroStep, length: int, device: torch.device) -> tuple[Denoiser, dict[str, float]]:
        """The denoiser at this step's share of the future, and that share for the log."""
        steps = self.args.attention_annealing_steps
        if at.step is None or steps == 0:
            return at.denoiser, {}
        visible = min(at.step / steps, 1.0)
        metrics = {"future_visible": visible}
        if visible == 1:
            return at.denoiser, metrics
        longest = at.share.largest(length)
        rule = annealed(longest, visible, generator_at(*at.position, 0, "attention_annealing"))
        return AnnealedDenoiser(at.denoiser, rule[-length:, -length:].to(device)), metrics

    def _at_states(
        self, at: MicroStep, batch: tuple[Tensor, Tensor, Tensor], rollout: RollOut
    ) -> tuple[LikelihoodEstimate, Tensor | float, dict[str, float]]:
        """The bound at the states of a rollout, the further losses that are asked for there, and their metrics."""
        draws, metrics, (_, _, ids) = rollout.draws, {}, batch
        if not bool(draws.rolled_out.any()):  # clean states: scored as without scheduled sampling, to the digit
            return self.nelbo_loss.score(at.denoiser, *batch, draws, self.args.temperature), 0.0, metrics
        wants_visible = self.args.scheduled_sampling_visible_loss > 0 or self.reflexflow is not None
        where = draws.scored | rollout.wrong if wants_visible else draws.scored
        logits = predict_states(at.denoiser, *batch, draws, where)
        logps = tempered_logps(logits, self.args.temperature)  # (R, V)
        estimate = self.nelbo_loss.estimate(logps[draws.scored[where]], ids, draws)
        further = self._visible_loss(logps, ids, rollout, where, metrics)
        return estimate, further + self._reflexflow_loss(at, batch, logps, rollout, where, metrics), metrics

    def _visible_loss(
        self, logps: Tensor, ids: Tensor, rollout: RollOut, where: Tensor, metrics: dict[str, float]
    ) -> Tensor | float:
        """Cross-entropy of the data at visible tokens that the model got wrong, per canvas token."""
        weight = self.args.scheduled_sampling_visible_loss
        if weight == 0:
            return 0.0
        targets = ids.unsqueeze(1).expand_as(where)[rollout.wrong]
        costs = -logps[rollout.wrong[where]].gather(1, targets.unsqueeze(1))
        if len(costs):
            metrics[SCHEDULED + "visible_cross_entropy"] = costs.detach().mean().item()
        return weight * costs.sum() / where.numel()

    def _reflexflow_loss(
        self,
        at: MicroStep,
        batch: tuple[Tensor, Tensor, Tensor],
        logps: Tensor,
        rollout: RollOut,
        where: Tensor,
        metrics: dict[str, float],
    ) -> Tensor | float:
        """ReflexFlow's two losses at the states that were moved, in the closed forms of masked diffusion.

        The mean over all states of a state's own loss, 0 where it was not moved: a batch's loss is its rows' mean.
        """
        moved = rollout.offset > 0  # (B, M)
        if self.reflexflow is None or not bool(moved.any()):
            return 0.0
        draws, (_, _, ids) = rollout.draws, batch
        hidden, wrong = draws.scored & moved.unsqueeze(2), rollout.wrong
        targets = ids.unsqueeze(1).expand_as(where)
        probs = logps[hidden[where]].exp()
        trained = hidden | wrong
        if not bool(trained.any()):
            return 0.0
        drift = logps.new_zeros(where.shape).masked_scatter(hidden, masked_anti_drift(probs, targets[hidden]))
        drift_visible = visible_anti_drift(logps[wrong[where]].exp(), targets[wrong], self._shown(draws)[wrong])
        drift = drift.masked_scatter(wrong, drift_visible).sum(dim=2) / trained.sum(dim=2).clamp(min=1)  # (B, M)
        sigma = self.nelbo_loss.schedule.mask_prob(draws.timestep[moved]).float()
        # A state without a wrong token is its own clean state: without this, rounding or dropout would pass for bias.
        biased = wrong.any(dim=2, keepdim=True).expand_as(hidden)[hidden].unsqueeze(1)  # (R, 1)
        compensation = masked_frequency_compensation(
            probs,
            torch.where(biased, self._clean_probs(at, batch, draws, hidden), probs.detach()),
            targets[hidden],
            draws.scored[moved],
            at.denoiser.embedding_table(),
            sigma,
            self.reflexflow.alpha,
        )
        metrics |= {
            SCHEDULED + "anti_drift": drift[moved].detach().mean().item(),
            SCHEDULED + "frequency_compensation": compensation.detach().mean().item(),
        }
        total = self.reflexflow.beta1 * drift.sum() + self.reflexflow.beta2 * compensation.sum()
        return total / moved.numel()

    @staticmethod
    def _shown(draws: Draws) -> Tensor:
        assert draws.shown is not None
        return draws.shown

    def _clean_probs(
        self, at: MicroStep, batch: tuple[Tensor, Tensor, Tensor], draws: Draws, hidden: Tensor
    ) -> Tensor:
        """The posterior at the same positions of the perfectly noised states, without gradients."""
        rows = draws.rolled_out
        clean = replace(draws, shown=None).rows(rows)
        with at.walker.evaluating():
            logits = predict_states(at.walker, *(part[rows] for part in batch), clean, hidden[rows])
            return tempered_logps(logits, self.args.temperature).exp()


def _check_annealed(args: DiffusionSFTConfig, policy: Policy) -> None:
    """Raise ConfigError for a model that cannot be told who sees whom at random."""
    kernel, calling = policy.calling.attention or policy.kernel, policy.calling
    for holds, expected in (
        (policy.block_length is None, "0 for model.attention=block_causal, a rule of its own"),
        (kernel in RULES, f"0 for model.attn_implementation={kernel!r}, or one of {', '.join(RULES)}"),
        (calling.padding != "none", "0 for a model that ignores attention masks"),
        (not calling.counts_padding, "0 for a model with absolute positions, which padding moves"),
    ):
        require(args, "attention_annealing_steps", holds, expected)


class FlowObjective(Objective):
    """Cross-entropy on a flow over embeddings, with ReflexFlow's losses where states were rolled out.

    The embeddings are the flow's space, so they are frozen; a head that shares them would move them.
    """

    def __init__(
        self, args: DiffusionSFTConfig, nelbo_loss: TrajectoryNELBOLoss, masking: MaskingStrategy, policy: Policy
    ):
        super().__init__(args, nelbo_loss, masking, policy)
        embedding, head = token_embedding(policy.model), vocabulary_head(policy.model)
        if head is not None and embedding.weight is head.weight:
            raise ConfigError(
                "loss.prediction_type='flow_matching': the model ties its head to its embeddings, which a flow "
                "freezes; expected a model with tie_word_embeddings=false"
            )
        embedding.weight.requires_grad_(False)
        self.flow = FlowMatchingLoss(nelbo_loss.schedule, nelbo_loss.num_draws, args.flow_noise_scale)

    def __call__(self, at: MicroStep, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor) -> Objected:
        dim, max_timesteps = at.denoiser.embedding_table().size(1), self.nelbo_loss.schedule.max_timesteps
        position = (*at.position, at.share.rank)  # noise for every component of every token: each rank its own
        noise = generator_at(*position)
        draws = self.flow.draw(self.masking, *ids.shape, prompt_ids.size(1), dim, noise, ids.device)
        source = chosen = None
        if at.step is not None and self.scheduled.active:
            noise = generator_at(*position, "scheduled_sampling")
            source, chosen = self.scheduled.draw_sources(draws.timestep, max_timesteps, at.step, noise)
        estimate = self.flow.score(
            at.denoiser,
            prompt_ids,
            prompt_mask,
            ids,
            draws,
            source,
            self.scheduled.sampler,
            self.reflexflow,
            walker=at.walker,
        )
        return estimate.loss, self._metrics(at, draws, source, chosen, estimate)

    def _metrics(
        self, at: MicroStep, draws: FlowDraws, source: Tensor | None, chosen: Tensor | None, estimate: FlowEstimate
    ) -> dict[str, float]:
        """Cross-entropy of states on the path and of those that the model walked to apart, nats a token."""
        moved, costs = estimate.rolled_out, estimate.cross_entropy.detach()
        metrics = {} if bool(moved.all()) else {"cross_entropy": costs[~moved].mean().item()}
        if source is None or chosen is None or at.step is None:
            return metrics
        numbers = {
            "probability": self.scheduled.probability_at(at.step),
            "rolled_out": chosen.float().mean().item(),
            "forwards": float(estimate.forwards),
        }
        if bool(chosen.any()):
            numbers["mean_offset"] = (source - draws.timestep)[chosen].float().mean().item()
        if bool(moved.any()):
            numbers["cross_entropy_rolled_out"] = costs[moved].mean().item()
        for name in ("anti_drift", "frequency_compensation", "exposure_bias"):
            values = getattr(estimate, name).detach()
            if values.numel():
                numbers[name] = values.mean().item()
        return metrics | {SCHEDULED + name: value for name, value in numbers.items()}


OBJECTIVES: dict[str, type[Objective]] = {"masked": MaskedObjective, "flow_matching": FlowObjective}
