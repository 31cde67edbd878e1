"""Per-token log-probabilities of a rollout on its stored states: by the policy, its reference, or the sampler.

Right after the rollout advantages are not known yet, so there are log-probs for every iteration and for both signs
that an advantage may have: (B, I, 2, L). In the loss both are known: (B, L).
"""

import torch
from accelerate import Accelerator
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn

from core.scoring import Draws, Likelihood, LikelihoodEstimate, both_signs, by_sign
from trainers.grpo.metrics import Meter
from trainers.grpo.states import PickedStates, StoredStates
from trainers.models.adapters import REFERENCE
from trainers.models.policy import Policy

Prompts = tuple[Tensor, Tensor]  # ids and mask, (B, P)


class Scorer:
    """Scores rollouts on their stored states.

    Args:
        policy: how its model, or another of the same kind, is called.
        likelihood: what the log-probs are.
        temperature: of the policy whose log-probs are wanted.
        meter: is told of evaluations, and of what the loss scored.
    """

    def __init__(self, policy: Policy, likelihood: Likelihood, temperature: float, meter: Meter):
        self.policy, self.likelihood, self.temperature, self.meter = policy, likelihood, temperature, meter

    def estimate(self, model: nn.Module, prompts: Prompts, canvas_ids: Tensor, draws: Draws) -> LikelihoodEstimate:
        """The likelihood of canvases (B, L) on states of one iteration (B, M, ...)."""
        self.meter.evaluated(canvas_ids.size(0) * draws.hidden.size(1))
        return self.likelihood.score(self.policy.denoiser(model), *prompts, canvas_ids, draws, self.temperature)

    def in_loss(
        self, model: nn.Module, prompts: Prompts, states: PickedStates, width: int
    ) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
        """Log-probs and entropies of the first ``width`` tokens, with gradients."""
        with self.meter.scoring():
            estimate = self.estimate(model, prompts, states.canvas_ids, states.draws)
            logps = by_sign(both_signs(estimate), states.advantages)[:, :width]
            self.meter.scored(estimate, logps, states)
        return logps, estimate.entropies[:, :width]

    def after_rollout(
        self, model: nn.Module, prompts: Prompts, states: StoredStates, size: int, reuses: bool
    ) -> Float[Tensor, "B I 2 L"]:
        """What a model says of the rollout just made.

        Args:
            model: the policy or its reference.
            prompts: ids and mask, (B, P).
            states: the rollout.
            size: rows of a forward.
            reuses: take what the sampler recorded, where its states are the stored ones: no forward.
        """
        if reuses and states.replays_exactly:
            return self.recorded(states)
        return self.of_rollout(model, prompts, states, size)

    def of_rollout(
        self, model: nn.Module, prompts: Prompts, states: StoredStates, size: int
    ) -> Float[Tensor, "B I 2 L"]:
        """What a model says of a rollout, in forwards of ``size`` rows."""
        with self.meter.scoring():
            return torch.stack([self._both(model, prompts, states, drawn, size) for drawn in states.iterations], dim=1)

    def _both(
        self, model: nn.Module, prompts: Prompts, states: StoredStates, draws: Draws, size: int
    ) -> Float[Tensor, "B 2 L"]:
        parts = []
        for start in range(0, len(states.canvas_ids), size):
            rows = slice(start, start + size)
            own = prompts[0][rows], prompts[1][rows]
            parts.append(both_signs(self.estimate(model, own, states.canvas_ids[rows], draws.rows(rows))))
        return torch.cat(parts)

    def recorded(self, states: StoredStates) -> Float[Tensor, "B I 2 L"]:
        """What the sampler recorded when it drew the tokens, put together as the likelihood does: no forward."""
        commits = states.commit_logps.unsqueeze(1)
        logps = [(commits * draws.scored, draws) for draws in states.iterations]
        found = [both_signs(self.likelihood.combine(own, torch.zeros_like(own), draws)) for own, draws in logps]
        return torch.stack(found, dim=1)


def is_policy(model: nn.Module, trained: nn.Module, accelerator: Accelerator) -> bool:
    """Whether ``model`` is the policy ``trained``, and not its reference: another model, or this one without its
    adapter (or with a frozen copy of it)."""
    model = accelerator.unwrap_model(model)
    if model is not accelerator.unwrap_model(trained):
        return False
    if not isinstance(model, PeftModel):
        return True
    status = model.get_model_status()
    return status.enabled is True and status.active_adapters != [REFERENCE]
