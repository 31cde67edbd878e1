"""How states become inputs of a denoiser, and its answers values of states.

B sequences with M states each are B * M rows of [prompt | canvas]; what is asked for are R positions of the canvases,
in row-major order. A block-causal model reads the clean canvas beside the noisy one.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers import Denoiser
from core.denoisers.attention import noisy_and_clean
from core.scoring.draws import Draws


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
        rule, part = noisy_and_clean(prompt_mask, ids.size(1), denoiser.block_length, denoiser.prompt_in_blocks)
        text = torch.cat([prompts, ids.unsqueeze(1).expand_as(canvases)], dim=2).flatten(0, 1)
        return _beside_clean_text(states, rows, rule.repeat_interleave(num_states, dim=0), text[:, part], part)
    attention_mask = torch.cat([prompt_mask, torch.ones_like(ids, dtype=prompt_mask.dtype)], dim=1)
    return {"ids": states, "attention_mask": attention_mask.repeat_interleave(num_states, dim=0), "rows": rows}


def _beside_clean_text(
    states: Int[Tensor, "S N"],
    rows: Bool[Tensor, "S N"],
    rule: Bool[Tensor, "S K K"],
    clean: Int[Tensor, "S C"],
    part: slice,
) -> dict[str, Tensor]:
    """For a block-causal model: [prompt | noisy canvas] becomes [prompt | noisy canvas | clean part], so that one
    forward predicts each block from its own noisy tokens and from clean ones before it (BD3-LM, 2503.09573, section
    4). The clean part stands at the positions of what it is a copy of; see `noisy_and_clean`.
    """
    positions = torch.arange(states.size(1), device=states.device)
    positions = torch.cat([positions, positions[part]])
    return {
        "ids": torch.cat([states, clean], dim=1),
        "attention_mask": rule,
        "rows": torch.cat([rows, torch.zeros_like(clean, dtype=torch.bool)], dim=1),
        "position_ids": positions.expand(states.size(0), -1),
    }


def targets(ids: Int[Tensor, "B L"], where: Bool[Tensor, "B M L"]) -> Int[Tensor, " R"]:
    """The tokens of the text at R positions ``where`` of its states, in row-major order."""
    return ids.unsqueeze(1).expand_as(where)[where]


def scatter(values: Float[Tensor, " R"], where: Bool[Tensor, "B M L"]) -> Float[Tensor, "B M L"]:
    """R values put back where they stand, 0 elsewhere: the inverse of picking them by ``where``."""
    return values.new_zeros(where.shape).masked_scatter(where, values)
