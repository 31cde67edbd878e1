"""The objective of masked diffusion: the NELBO of noised text, also at states of the model's own making."""

from dataclasses import replace

from jaxtyping import Bool, Float
from torch import Tensor

from core.denoisers.denoiser import tempered_logps
from core.masking_strategy import MaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from core.scheduled_sampling import RollOut
from core.scoring import Draws, LikelihoodEstimate, predict_states
from trainers.exposure import Batch, Walks, bounds_apart, rows_of
from trainers.models.policy import Policy
from trainers.settings.sft import DiffusionSFTConfig
from trainers.sft.annealing import Annealing
from trainers.sft.moved_states import Predictions, ReflexFlowLoss, visible_loss
from trainers.sft.objective import MicroStep, Objected, Objective


class MaskedObjective(Objective):
    """The NELBO per canvas token; ReflexFlow, a loss at wrong visible tokens and annealed attention on demand."""

    def __init__(
        self, args: DiffusionSFTConfig, nelbo_loss: TrajectoryNELBOLoss, masking: MaskingStrategy, policy: Policy
    ):
        super().__init__(args, nelbo_loss, masking, policy)
        self.annealing = Annealing(args, policy)
        self.walks = Walks(self.scheduled, masking, nelbo_loss, args.temperature)
        self.reflexflow_loss = ReflexFlowLoss(self.reflexflow, nelbo_loss.schedule)

    def __call__(self, at: MicroStep, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor) -> Objected:
        """The loss, nats a canvas token, at clean states or, with scheduled sampling, at those that the model made."""
        batch, (rows, length) = (prompt_ids, prompt_mask, ids), ids.shape
        where = prompt_ids.size(1), at.generator(0), ids.device
        draws = self.nelbo_loss.draw(self.masking, rows, length, *where, share=at.share)
        walks = at.step is not None and self.scheduled.active
        return self._at_moved_states(at, batch, draws) if walks else self._at_clean_states(at, batch, draws)

    def _at_clean_states(self, at: MicroStep, batch: Batch, draws: Draws) -> Objected:
        prompt_ids, _, ids = batch
        denoiser, metrics = self.annealing(at, prompt_ids.size(1) + ids.size(1), ids.device)
        estimate = self.nelbo_loss.score(denoiser, *batch, draws, self.args.temperature)
        metrics["nelbo"] = estimate.sequence_bound.mean().item()
        return estimate.sequence_bound.mean() / ids.size(1), metrics

    def _at_moved_states(self, at: MicroStep, batch: Batch, draws: Draws) -> Objected:
        assert at.step is not None
        ids = batch[2]
        noise = at.generator(0, "scheduled_sampling", device=ids.device)
        rollout, seconds = self.walks.walk(at.walker, batch, draws, at.step, noise, at.share)
        estimate, further, found = self._score(at, batch, rollout)
        metrics = self.walks.metrics(rollout, seconds, at.walker, batch, at.step, at.measure)
        assert rollout.draws.rolled_out is not None
        metrics |= bounds_apart(estimate.sequence_bound.detach(), rollout.draws.rolled_out) | found
        return estimate.sequence_bound.mean() / ids.size(1) + further, metrics

    def _score(
        self, at: MicroStep, batch: Batch, rollout: RollOut
    ) -> tuple[LikelihoodEstimate, Tensor | float, dict[str, float]]:
        """The bound at the states of a rollout, the further losses that are asked for there, and their metrics."""
        draws, ids, visible_weight = rollout.draws, batch[2], self.args.scheduled_sampling_visible_loss
        assert draws.rolled_out is not None
        if not bool(draws.rolled_out.any()):  # clean states: scored as without scheduled sampling, to the digit
            return self.nelbo_loss.score(at.denoiser, *batch, draws, self.args.temperature), 0.0, {}
        wants_visible = visible_weight > 0 or self.reflexflow is not None
        where = draws.scored | rollout.wrong if wants_visible else draws.scored
        logits = predict_states(at.denoiser, *batch, draws, where)
        predicted = Predictions(tempered_logps(logits, self.args.temperature), where, rollout, ids)
        estimate = self.nelbo_loss.estimate(predicted.at(draws.scored), ids, draws)
        visible, metrics = visible_loss(predicted, visible_weight)
        reflected, found = self.reflexflow_loss(
            predicted, at.denoiser.embedding_table, lambda hidden: self._clean_probs(at, batch, draws, hidden)
        )
        return estimate, visible + reflected, metrics | found

    def _clean_probs(
        self, at: MicroStep, batch: Batch, draws: Draws, hidden: Bool[Tensor, "B M L"]
    ) -> Float[Tensor, "R V"]:
        """The posterior at the same positions of the perfectly noised states, without gradients."""
        rows = draws.rolled_out
        assert rows is not None
        clean = replace(draws, shown=None).rows(rows)
        with at.walker.evaluating():
            logits = predict_states(at.walker, *rows_of(batch, rows), clean, hidden[rows])
            return tempered_logps(logits, self.args.temperature).exp()
