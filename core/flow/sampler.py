"""The sampler of the flow: completions written by solving the ODE from noise to text.

`FlowGenerator` starts at n = E[mask] + temperature * s * eps and walks down all levels of the schedule with one of
`ODE_SOLVERS`; the text is what the last prediction finds likeliest. An ODE gives no likelihood of tokens, so its
trajectories serve evaluation, not policy gradients. Sources: ELF (2605.10938), Lipman et al. 2023 (2210.02747).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoisers import EmbeddingDenoiser
from core.flow.path import EmbeddingFlow, check_noise_scale, levels
from core.flow.solvers import ODE_SOLVERS, check_solver
from core.sampling.noise import TOKEN, RowNoise
from core.trajectory import EosIds, Trajectory, ends_text, tokens_to_first_eos


class FlowGenerator:
    """Writes completions by solving the ODE from noise to text over the levels of the schedule.

    Called like `core.generator.DiffusionGenerator`. The tokens are the likeliest ones of the last prediction, all at
    once: there are no commit log-probabilities and the path has no likelihood.

    Args:
        denoiser: the model.
        schedule: the levels of the grid.
        canvas_length: L, tokens.
        solver: a key of `ODE_SOLVERS`.
        noise_scale: s, as in training.
        temperature: of the starting noise; 0 starts from the mask token's embedding alone and is deterministic.
        eos_id: ends a completion (`core.trajectory.EosIds`); None: the whole canvas is the completion.

    Raises:
        ValueError: unknown solver or impossible values.
    """

    def __init__(
        self,
        denoiser: EmbeddingDenoiser,
        schedule: AlphaSchedule,
        canvas_length: int,
        solver: str = "euler",
        noise_scale: float = 1.0,
        temperature: float = 1.0,
        eos_id: EosIds = None,
    ):
        check_solver("generation.solver", solver)
        check_noise_scale(noise_scale)
        if temperature < 0:
            raise ValueError(f"generation.temperature={temperature} must be at least 0 (0 starts without noise)")
        self.denoiser, self.schedule, self.canvas_length = denoiser, schedule, canvas_length
        self.solver, self.noise_scale = solver, noise_scale
        self.temperature, self.eos_id = temperature, eos_id

    @torch.no_grad()
    def generate(
        self,
        prompt_ids: Int[Tensor, "B P"],
        prompt_mask: Tensor,
        noise: torch.Generator | Int[Tensor, " B"],
        observe: Callable[[int, Tensor], None] | None = None,
    ) -> Trajectory:
        """Write one completion for each prompt row.

        Args:
            prompt_ids: left-padded prompts, (B, P).
            prompt_mask: 0 on padding, (B, P).
            noise: the only source of randomness: a key for each row, or a generator to draw them from.
            observe: called as ``observe(timestep, ids)`` after each evaluation, with the timestep of the level that
                was evaluated (of the level above, between two) and the likeliest tokens there, (B, L).
        """
        table = self.denoiser.embedding_table()
        flow = EmbeddingFlow(self.denoiser, prompt_ids, prompt_mask, table, self.noise_scale)
        ids, forwards = prompt_ids.new_empty(prompt_ids.size(0), self.canvas_length), 0

        def predict(z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
            nonlocal ids, forwards
            logits = flow.logits(z)
            ids, forwards = logits.argmax(dim=-1), forwards + 1
            if observe is not None:
                observe(int(self.schedule.transition_at(sigma[0])), ids)
            return flow.expected(logits)

        start = flow.noise(self.temperature * _row_gaussian(noise, ids.shape, table.size(1), ids.device))
        sigmas = levels(self.schedule).flip(0).to(ids.device).expand(len(ids), -1)
        ODE_SOLVERS[self.solver](predict, start, sigmas)
        return self._trajectory(ids, forwards)

    def _trajectory(self, ids: Int[Tensor, "B L"], forwards: int) -> Trajectory:
        """The record of a walk whose last evaluation revealed all tokens at once."""
        return Trajectory(
            ids=ids,
            step_map=torch.full_like(ids, forwards - 1),
            commit_logps=torch.zeros(ids.shape, device=ids.device),
            lengths=tokens_to_first_eos(ids, self.eos_id),
            stopped=ends_text(ids, self.eos_id).any(dim=1),
            forwards=torch.full_like(ids[:, 0], forwards),
            exact=False,
            eos_id=self.eos_id,
        )


def _row_gaussian(
    noise: torch.Generator | Int[Tensor, " B"], canvas: torch.Size, dim: int, device: torch.device
) -> Float[Tensor, "B L d"]:
    """Standard normals (B, L, d) that depend on each row's key alone, by the inverse of the normal distribution."""
    batch, length = canvas
    u = RowNoise(noise, batch, length * dim, device).everywhere(TOKEN) + 2.0**-53  # the middle of its cell
    return torch.special.ndtri(u).float().unflatten(1, (length, dim))
