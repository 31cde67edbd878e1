"""From tokenised rows of TRL to the canvas that a completion is written on; SFT and DPO share it."""

from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100  # label that TRL puts on prompt tokens


class CanvasCollator:
    """Tokenised prompt-completion rows -> a left-padded prompt and a canvas of fixed length whose tail is EOS.

    The canvas is the one that rollouts are written on, so that training and sampling see the same positions.
    """

    def __init__(self, canvas_length: int, pad_id: int, eos_id: int):
        self.canvas_length, self.pad_id, self.eos_id = canvas_length, pad_id, eos_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """``prompt_ids``, ``prompt_mask`` (B, P), left-padded, and ``completion_ids`` (B, L), filled up with EOS."""
        prompts, canvases = [], []
        for row in rows:
            completion = [label for label in row["labels"] if label != IGNORED]
            prompts.append(torch.tensor(row["input_ids"][: -len(completion)]))
            canvases.append(completion + [self.eos_id] * (self.canvas_length - len(completion)))
        pad = nn.utils.rnn.pad_sequence
        return {
            "prompt_ids": pad(prompts, batch_first=True, padding_value=self.pad_id, padding_side="left"),
            "prompt_mask": pad([torch.ones_like(p) for p in prompts], batch_first=True, padding_side="left"),
            "completion_ids": torch.tensor(canvases),
        }
