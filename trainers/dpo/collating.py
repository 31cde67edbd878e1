"""Preferred and rejected texts on canvases of fixed length, as TRL's DPO wants them in one batch."""

from collections.abc import Collection
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainers.collating import IGNORED, CanvasCollator
from trainers.inputs.rows import prompt_and_pair
from trainers.models.formats import PromptFormat
from trainers.settings.options import ConfigError

TEXTS = ("chosen", "rejected")


class PairCollator(CanvasCollator):
    """Tokenised pairs -> TRL's batch, all chosen rows above all rejected ones: a left-padded prompt and a canvas each.

    A text that fills its canvas loses the EOS that TRL puts behind it.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``completion_mask``, (2B, P + L) each, of B pairs."""
        texts = [(row["prompt_ids"], row[f"{text}_ids"][: self.canvas_length]) for text in TEXTS for row in rows]
        batch = super().__call__(
            [{"input_ids": prompt + ids, "labels": [IGNORED] * len(prompt) + ids} for prompt, ids in texts]
        )
        canvas, prompt_mask = batch["completion_ids"], batch["prompt_mask"]
        return {
            "input_ids": torch.cat([batch["prompt_ids"], canvas], dim=1),
            "attention_mask": torch.cat([prompt_mask, torch.ones_like(canvas)], dim=1),
            "completion_mask": torch.cat([torch.zeros_like(prompt_mask), torch.ones_like(canvas)], dim=1),
        }


def tokenised(
    row: dict[str, Any], place: int, form: PromptFormat, tokenizer: PreTrainedTokenizerBase, name: str
) -> dict[str, list[int]]:
    """``prompt_ids``, and ``chosen_ids`` and ``rejected_ids`` with their ends, behind one and the same prompt."""
    asked, *answers = prompt_and_pair(row, name, place)
    texts = [form.join(tokenizer, asked, answer) for answer in answers]
    start = min(len(prompt) for prompt, _ in texts)
    chosen, rejected = (prompt + completion for prompt, completion in texts)
    return {"prompt_ids": chosen[:start], "chosen_ids": chosen[start:], "rejected_ids": rejected[start:]}


def check_lengths(pairs: Dataset, canvas_length: int, eos_ids: Collection[int]) -> None:
    """Texts must fit their canvas; the EOS behind one that fills it may be cut.

    Raises:
        ConfigError: some do not.
    """
    lengths = [len(ids) - (ids[-1] in eos_ids) for text in TEXTS for ids in pairs[f"{text}_ids"]]
    too_long = sum(length > canvas_length for length in lengths)
    if too_long:
        raise ConfigError(
            f"generation.max_completion_length={canvas_length}: {too_long} of {len(lengths)} preferred or rejected "
            f"texts are longer; the longest has {max(lengths)} tokens without its EOS"
        )
