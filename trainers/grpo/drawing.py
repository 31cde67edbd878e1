"""Drawing the states that a rollout is scored on: all the randomness of the likelihood, right after the rollout."""

import time

from jaxtyping import Int
from torch import Tensor

from core.denoisers import Denoiser
from core.masking_strategy import MaskingStrategy
from core.scoring import Draws, Likelihood
from core.scoring.share import Share
from core.trajectory import Trajectory
from trainers.exposure import Batch, Walks
from trainers.grpo.metrics import Meter
from trainers.grpo.position import Cadence, Position
from trainers.grpo.rollout import Roller
from trainers.grpo.states import StoredStates
from trainers.rollouts import padded


def roll_and_draw(
    roller: Roller, drawer: "StateDrawer", prompt_ids: list[list[int]], at: Position, measure: bool
) -> tuple[Trajectory, StoredStates]:
    """One completion a prompt, and the states that they are scored on; the drawer's meter is told how long they took.

    Args:
        roller: completes.
        drawer: draws.
        prompt_ids: token ids, B prompts.
        at: where the run stands.
        measure: whether to spend forwards on the exposure bias.
    """
    started = time.perf_counter()
    prompts = padded(prompt_ids, roller.policy.pad_id, roller.device)
    with roller.sampling() as denoiser:
        trajectory = roller.complete(denoiser, prompt_ids, at)
        drawer.meter.rolled_out(trajectory, time.perf_counter() - started)
        return trajectory, drawer.draw(trajectory, prompts, denoiser, at, measure)


class StateDrawer:
    """Draws the states of a rollout for every iteration over it.

    Args:
        likelihood: says which states.
        masking: hides tokens; holds the likelihood's schedule.
        cadence: how many iterations there are.
        share: a process draws its part of the states of the global batch.
        walks: scheduled sampling of the states.
        meter: is told what the walks were.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        masking: MaskingStrategy,
        cadence: Cadence,
        share: Share,
        walks: Walks,
        meter: Meter,
    ):
        self.likelihood, self.masking, self.cadence, self.share = likelihood, masking, cadence, share
        self.walks, self.meter = walks, meter

    def draw(
        self,
        trajectory: Trajectory,
        prompts: tuple[Int[Tensor, "B P"], Tensor],
        denoiser: Denoiser,
        at: Position,
        measure: bool,
    ) -> StoredStates:
        """The states of one rollout.

        Args:
            trajectory: the rollout.
            prompts: what it completes, and their mask, (B, P).
            denoiser: the policy that made it, for states of its own making.
            at: where the run stands.
            measure: whether to spend forwards on the exposure bias.
        """
        canvas = self.likelihood.canvas(trajectory)
        draws = [self._drawn(trajectory, prompts[0].size(1), at, i) for i in range(self.cadence.iterations_at(at))]
        if self.walks.scheduled.active and at.training:
            batch = (*prompts, canvas)
            draws = [self._walked(denoiser, batch, drawn, at, i, measure) for i, drawn in enumerate(draws)]
        return StoredStates(canvas, trajectory.commit_logps, Draws.stack(draws), self._replays_exactly(trajectory))

    def _drawn(self, trajectory: Trajectory, prompt_length: int, at: Position, iteration: int) -> Draws:
        rows, length = trajectory.ids.shape
        return self.likelihood.draw(
            self.masking,
            rows,
            length,
            prompt_length,
            at.generator("states", iteration),
            device=trajectory.ids.device,
            trajectory=trajectory,
            share=self.share,
        )

    def _walked(
        self,
        denoiser: Denoiser,
        batch: Batch,
        draws: Draws,
        at: Position,
        iteration: int,
        measure: bool,
    ) -> Draws:
        """States of the model's own making; old, reference and current policy share them."""
        noise = at.generator("scheduled_sampling", iteration, 0, device=batch[2].device)
        rollout, seconds = self.walks.walk(denoiser, batch, draws, at.update, noise, self.share)
        self.meter.walked(self.walks.metrics(rollout, seconds, denoiser, batch, at.update, measure), seconds)
        return rollout.draws

    def _replays_exactly(self, trajectory: Trajectory) -> bool:
        """Whether each token is scored in the very state in which the sampler committed it."""
        return self.likelihood.replays_steps and trajectory.exact
