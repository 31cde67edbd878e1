"""The objective of a flow over embeddings, see `core.flow`."""

from torch import Tensor

from core.flow import FlowDraws, FlowEstimate, FlowMatchingLoss
from core.masking_strategy import MaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from trainers.exposure import SCHEDULED
from trainers.models.policy import Policy, token_embedding, vocabulary_head
from trainers.settings.options import ConfigError
from trainers.settings.sft import DiffusionSFTConfig
from trainers.sft.objective import MicroStep, Objected, Objective

Sources = tuple[Tensor | None, Tensor | None]  # where a walk starts (timesteps), and which sequences were chosen


class FlowObjective(Objective):
    """Cross-entropy on a flow over embeddings, with ReflexFlow's losses where states were rolled out.

    The embeddings are the flow's space, so they are frozen; a head that shares them would move them.
    """

    def __init__(
        self, args: DiffusionSFTConfig, nelbo_loss: TrajectoryNELBOLoss, masking: MaskingStrategy, policy: Policy
    ):
        super().__init__(args, nelbo_loss, masking, policy)
        embedding, head = token_embedding(policy.model), vocabulary_head(policy.model)
        assert embedding is not None  # it embeds tokens
        if head is not None and embedding.weight is head.weight:
            raise ConfigError(
                "loss.prediction_type='flow_matching': the model ties its head to its embeddings, which a flow "
                "freezes; expected a model with tie_word_embeddings=false"
            )
        embedding.weight.requires_grad_(False)
        self.flow = FlowMatchingLoss(nelbo_loss.schedule, nelbo_loss.num_draws, args.flow_noise_scale)

    def __call__(self, at: MicroStep, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor) -> Objected:
        """Cross-entropy, nats a canvas token, and ReflexFlow's losses at the states that were walked to."""
        (rows, length), prompt_length = ids.shape, prompt_ids.size(1)
        dim, rank = at.denoiser.embedding_table().size(1), at.share.rank
        # noise for every component of every token: each rank its own
        draws = self.flow.draw(self.masking, rows, length, prompt_length, dim, at.generator(rank), ids.device)
        source, chosen = self._sources(at, draws)
        options = source, self.scheduled.sampler, self.reflexflow
        estimate = self.flow.score(at.denoiser, prompt_ids, prompt_mask, ids, draws, *options, walker=at.walker)
        metrics = self._metrics(estimate)
        if source is not None and chosen is not None and at.step is not None:
            metrics |= self._walk_metrics(at.step, draws, source, chosen, estimate)
        return estimate.loss, metrics

    def _sources(self, at: MicroStep, draws: FlowDraws) -> Sources:
        if at.step is None or not self.scheduled.active:
            return None, None
        noise = at.generator(at.share.rank, "scheduled_sampling")
        return self.scheduled.draw_sources(draws.timestep, self.nelbo_loss.schedule.max_timesteps, at.step, noise)

    @staticmethod
    def _metrics(estimate: FlowEstimate) -> dict[str, float]:
        """Cross-entropy of states on the path, nats a token."""
        on_path = ~estimate.rolled_out
        return {"cross_entropy": estimate.cross_entropy.detach()[on_path].mean().item()} if bool(on_path.any()) else {}

    def _walk_metrics(
        self, step: int, draws: FlowDraws, source: Tensor, chosen: Tensor, estimate: FlowEstimate
    ) -> dict[str, float]:
        """How far the model walked, and the losses of the states that it walked to, nats a token."""
        moved = estimate.rolled_out
        numbers = {
            "probability": self.scheduled.probability_at(step),
            "rolled_out": chosen.float().mean().item(),
            "forwards": float(estimate.forwards),
        }
        if bool(chosen.any()):
            numbers["mean_offset"] = (source - draws.timestep)[chosen].float().mean().item()
        if bool(moved.any()):
            numbers["cross_entropy_rolled_out"] = estimate.cross_entropy.detach()[moved].mean().item()
        for name in ("anti_drift", "frequency_compensation", "exposure_bias"):
            values = getattr(estimate, name).detach()
            if values.numel():
                numbers[name] = values.mean().item()
        return {SCHEDULED + name: value for name, value in numbers.items()}
