"""The path of the flow: a straight line between the embeddings of a text and noise, its time and its draws.

A canvas of L tokens is a point z (B, L, d) among the rows of the embedding table E. The rows are scaled to root mean
square 1, and the table is never trained through. With e = E[x0] the data and n = E[mask] + s eps the noise,

    z = (1 - sigma) e + sigma n

*Time* is sigma, the schedule's ``mask_prob(t)`` at timestep t: 1 at T + 1, where all is noise, and 0 at -1. The prompt
stands beside the canvas as embeddings of its tokens. The network sees z in place of tokens and predicts a distribution
p for each position; xhat = p E estimates e (`EmbeddingFlow`). The paths of the flow follow

    dz / dsigma = v = (z - xhat) / sigma

`FlowDraws` are the random numbers of one loss. Sources: Lipman et al. 2023 (2210.02747, section 4.1, example II with
sigma_min = 0: the straight path and its velocity), ELF (2605.10938: a flow over embeddings).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule
from core.denoisers import EmbeddingDenoiser

MIN_SIGMA = 0.05  # a velocity divides by at least this (JiT, Li & He 2025, 2511.13720: t_eps)


def interpolate(
    clean: Float[Tensor, "N L d"], noise: Float[Tensor, "N L d"], sigma: Float[Tensor, " N"]
) -> Float[Tensor, "N L d"]:
    """z = (1 - sigma) e + sigma n."""
    sigma = sigma.to(clean.dtype).view(-1, 1, 1)
    return (1 - sigma) * clean + sigma * noise


def velocity(
    z: Float[Tensor, "N L d"], xhat: Float[Tensor, "N L d"], sigma: Float[Tensor, " N"]
) -> Float[Tensor, "N L d"]:
    """v = (z - xhat) / max(sigma, .05), for losses; the ODE itself is integrated without the bound."""
    return (z - xhat) / sigma.clamp(min=MIN_SIGMA).to(z.dtype).view(-1, 1, 1)


@dataclass(frozen=True)
class EmbeddingFlow:
    """A denoiser under given prompts as a function of the canvas's embeddings.

    Attributes:
        denoiser: the model.
        prompt_ids, prompt_mask: left-padded prompts and 0 on their padding, (N, P).
        table: the denoiser's `embedding_table`, (V, d).
        noise_scale: s, the standard deviation of the noise around the mask token's embedding.
    """

    denoiser: EmbeddingDenoiser
    prompt_ids: Int[Tensor, "N P"]
    prompt_mask: Tensor
    table: Float[Tensor, "V d"]
    noise_scale: float

    def rows(self, where: Bool[Tensor, " N"]) -> "EmbeddingFlow":
        """The flow of some rows."""
        return replace(self, prompt_ids=self.prompt_ids[where], prompt_mask=self.prompt_mask[where])

    def noise(self, eps: Float[Tensor, "N L d"]) -> Float[Tensor, "N L d"]:
        """n = E[mask] + s eps."""
        return self.table[self.denoiser.mask_id] + self.noise_scale * eps

    def logits(self, z: Float[Tensor, "N L d"]) -> Float[Tensor, "N L V"]:
        """The posterior of every token of the canvas: one evaluation."""
        embeddings = torch.cat([self.table[self.prompt_ids], z.to(self.table.dtype)], dim=1)
        canvas_mask = self.prompt_mask.new_ones(z.shape[:2])
        attention_mask = torch.cat([self.prompt_mask, canvas_mask], dim=1)
        rows = torch.cat([torch.zeros_like(self.prompt_mask), canvas_mask], dim=1).bool()
        return self.denoiser.logits_from_embeddings(embeddings, attention_mask, rows).unflatten(0, z.shape[:2])

    def expected(self, logits: Float[Tensor, "N L V"]) -> Float[Tensor, "N L d"]:
        """xhat = softmax(logits) E, in float32 whatever autocast says: an ODE adds up its rounding errors."""
        with torch.autocast(logits.device.type, enabled=False):
            return logits.softmax(dim=-1) @ self.table


def check_noise_scale(noise_scale: float) -> None:
    """Raises ValueError unless s is above 0: without noise all levels are one point."""
    if not noise_scale > 0:
        raise ValueError(f"flow_noise_scale={noise_scale} must be above 0")


def levels(schedule: AlphaSchedule) -> Float[Tensor, " S"]:
    """The distinct noise levels of the closed grid, 0 to 1; transitions without width have dropped out."""
    return schedule.mask_prob(torch.tensor(schedule.timesteps)).unique()


def walk(schedule: AlphaSchedule, start: Float[Tensor, " B"], end: Float[Tensor, " B"]) -> Float[Tensor, "B S"]:
    """All levels from ``start`` down to ``end``, both of the grid, row by row; short rows repeat their end."""
    grid = levels(schedule).to(start.device)
    first, last = torch.searchsorted(grid, start.contiguous()), torch.searchsorted(grid, end.contiguous())
    steps = torch.arange(int((first - last).max()) + 1, device=start.device)
    return grid[(first.unsqueeze(1) - steps).maximum(last.unsqueeze(1))]


@dataclass(frozen=True)
class FlowDraws:
    """All randomness of one loss, batch first.

    Attributes:
        timestep: of each of the M states, on the closed grid, (B, M).
        eps: standard normal noise, (B, M, L, d).
        prompt_hidden: masked prompt tokens, (B, M, P).
    """

    timestep: Int[Tensor, "B M"]
    eps: Float[Tensor, "B M L d"]
    prompt_hidden: Bool[Tensor, "B M P"]


def gaussian(*shape: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
    """float32 standard normals, drawn on the generator's device and moved: a seed means the same on every device."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)
