"""Which tokens are hidden: masks drawn from the schedule, for rollouts and for the loss.

One uniform number U per token decides its fate at every timestep: a completion token is masked at t iff
U < mask_prob_t (it becomes visible as alpha rises past 1 - U), so states drawn from the same U are nested along the
trajectory. `forward_process` draws U afresh; callers that couple states (the loss, the ancestral sampler) pass their
own.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.alpha_schedule import AlphaSchedule, sync_masking_with_nelbo

__all__ = [
    "FRESH_PROMPT_RATE",
    "MASKING_STRATEGIES",
    "DiffusionMaskingStrategy",
    "FullMaskingStrategy",
    "MaskingStrategy",
    "as_generator",
    "sync_masking_with_nelbo",
    "uniform",
]


FRESH_PROMPT_RATE = 0.3  # p_mask_prompt of states that replay no rollout (d1, 2504.12216, section 3.1)


def as_generator(seed: int | torch.Generator | None) -> torch.Generator:
    """A `torch.Generator` from a seed, a generator (returned as is) or None (fresh entropy). Never the global one."""
    if isinstance(seed, torch.Generator):
        return seed
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def uniform(*shape: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
    """float64 uniforms in [0, 1), drawn on the generator's device and moved: a seed means the same on every device.

    float64 because thresholds such as mask_prob_0 = 1e-9 are finer than float32's grid of 6e-8.
    """
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).to(device)


class MaskingStrategy:
    """What every strategy shares: the prompt rule, padding, and the shape of `forward_process`. Abstract."""

    schedule: AlphaSchedule | None

    def __init__(self, p_mask_prompt: float | None):
        if p_mask_prompt is not None and not 0.0 <= p_mask_prompt <= 1.0:
            raise ValueError(f"p_mask_prompt={p_mask_prompt} must lie in [0, 1]")
        self._follows_source = p_mask_prompt is None
        self.p_mask_prompt = FRESH_PROMPT_RATE if p_mask_prompt is None else p_mask_prompt

    def settle_prompt(self, source: str) -> None:
        """Where no `p_mask_prompt` was given: 0 for states of a rollout (source ``rollout``), which saw the prompt."""
        if self._follows_source:
            self.p_mask_prompt = 0.0 if source == "rollout" else FRESH_PROMPT_RATE

    def completion_mask_prob(self, timestep: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Probability that a completion token is masked at each given timestep."""
        raise NotImplementedError

    def draw_timesteps(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " B"]:
        """One timestep per row, for callers that give none."""
        raise NotImplementedError

    def hide(self, u: Float[Tensor, "*batch L"], timestep: Int[Tensor, "*batch"] | int) -> Bool[Tensor, "*batch L"]:
        """True where a completion token with uniform ``u`` is masked at ``timestep`` (one per leading index)."""
        timestep = torch.as_tensor(timestep, device=u.device)
        return u < self.completion_mask_prob(timestep).unsqueeze(-1)

    def hide_prompt(self, u: Float[Tensor, "*batch P"]) -> Bool[Tensor, "*batch P"]:
        """True where a prompt token with uniform number ``u`` is masked."""
        return u < self.p_mask_prompt

    def forward_process(
        self,
        batch: Int[Tensor, "B N"],
        prompt_index: Bool[Tensor, " N"] | Bool[Tensor, "B N"],
        mask_id: int,
        seed: int | torch.Generator | None = None,
        timestep: int | Int[Tensor, " B"] | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Int[Tensor, "B N"], Float[Tensor, "B N"]]:
        """Noise a batch: completions with the mask probability of their timestep, prompts with `p_mask_prompt`.

        Args:
            batch: token ids, (B, N).
            prompt_index: True on prompt tokens, (N,) or (B, N).
            mask_id: id of the mask token.
            seed: seed or `torch.Generator`; the global random state is never touched.
            timestep: one for all rows, one per row (B,), or None: drawn uniformly from 1..T.
            attention_mask: (B, N), 0 on padding; padding is never masked.

        Returns:
            noisy_batch (B, N) int64 and p_mask (B, N) float32, the probability used at each position.
        """
        if prompt_index.shape not in (batch.shape, batch.shape[1:]):
            raise ValueError(
                f"prompt_index has shape {tuple(prompt_index.shape)}, expected (N,) or (B, N) of {tuple(batch.shape)}"
            )
        generator = as_generator(seed)
        if timestep is None:
            timestep = self.draw_timesteps(batch.size(0), generator)
        timestep = torch.as_tensor(timestep, device=batch.device).expand(batch.size(0))
        p_mask = self.completion_mask_prob(timestep).unsqueeze(1).expand(batch.shape)
        p_mask = torch.where(prompt_index, self.p_mask_prompt, p_mask)
        if attention_mask is not None:
            p_mask = torch.where(attention_mask.bool(), p_mask, 0.0)
        hidden = uniform(*batch.shape, generator=generator, device=batch.device) < p_mask
        return torch.where(hidden, mask_id, batch), p_mask.float()

    def get_alpha_schedule_params(self) -> dict[str, Any]:
        """The schedule's four parameters; all None for a strategy without timesteps."""
        if self.schedule is None:
            return dict.fromkeys(("alpha_schedule", "max_timesteps", "alpha_min", "alpha_max"))
        return self.schedule.params


class DiffusionMaskingStrategy(MaskingStrategy):
    """Timestep-aware masking on an alpha schedule: P(masked at t) = 1 - alpha_t on the completion.

    Args:
        p_mask_prompt: probability of masking a prompt token (d1, Zhao et al. 2025, section 3.1, uses 0.15-0.3). None
            follows the states of the loss that `sync_masking_with_nelbo` ties it to: 0 for those of a rollout, else
            `FRESH_PROMPT_RATE`.
        max_timesteps, alpha_schedule, alpha_min, alpha_max: see `AlphaSchedule`.
    """

    schedule: AlphaSchedule

    def __init__(
        self,
        p_mask_prompt: float | None = None,
        max_timesteps: int = 128,
        alpha_schedule: str = "cosine",
        alpha_min: float = 0.01,
        alpha_max: float = 0.99,
    ):
        super().__init__(p_mask_prompt)
        schedule = AlphaSchedule(alpha_schedule, max_timesteps, alpha_min, alpha_max)
        self.schedule = schedule  # pyright: ignore[reportIncompatibleVariableOverride]  # never None here

    def completion_mask_prob(self, timestep: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """1 - alpha_t; t in -1..T+1, the closed grid."""
        outside = (timestep < -1) | (timestep > self.schedule.max_timesteps + 1)
        if bool(outside.any()):
            raise ValueError(
                f"timestep {timestep[outside].flatten()[0].item()} is outside "
                f"-1..{self.schedule.max_timesteps + 1} (-1 is clean, T + 1 all masked)"
            )
        return self.schedule.mask_prob(timestep)

    def draw_timesteps(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " B"]:
        """Uniform over 1..T."""
        return torch.randint(
            1, self.schedule.max_timesteps + 1, (batch_size,), generator=generator, device=generator.device
        )


class FullMaskingStrategy(MaskingStrategy):
    """Masking without timesteps (d1's diffu-GRPO): every completion token is masked, whatever the timestep.

    Args:
        p_mask_prompt: see `DiffusionMaskingStrategy`.
    """

    def __init__(self, p_mask_prompt: float | None = None):
        super().__init__(p_mask_prompt)
        self.schedule = None

    def completion_mask_prob(self, timestep: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """1 everywhere."""
        return torch.ones(timestep.shape, dtype=torch.float64, device=timestep.device)

    def draw_timesteps(self, batch_size: int, generator: torch.Generator) -> Int[Tensor, " B"]:
        """Zeros: there is no time here."""
        return torch.zeros(batch_size, dtype=torch.int64, device=generator.device)


# strategy_type in the YAML. Anything but "diffusion" falls back to masking without timesteps.
MASKING_STRATEGIES: dict[str, type[MaskingStrategy]] = {
    "diffusion": DiffusionMaskingStrategy,
    "full": FullMaskingStrategy,
}
