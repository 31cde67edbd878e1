"""Checkpoints around the public model files: a few thousand random weights, and what transformers 4 made of them.

They are no part of the repository. Where the environment variable REAL_MODELS names their directory, it holds
models/NAME, a checkpoint with the published files, and refs/NAME.pt: token ids, and the logits and greedy texts that
the transformers version that the files were written for gave. Elsewhere the tests that need them are skipped.
"""

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

ROOT = Path(os.environ.get("REAL_MODELS", "real-models"))
BLOCK = 4  # tokens of a block in the reference logits of block-causal models


@dataclass(frozen=True)
class RealModel:
    """One checkpoint.

    Attributes:
        name: of its directory under models/.
        family: what it is to be taken for, a name of `trainers.models.families.FAMILIES`.
        block_length: tokens of a block in its reference; None: bidirectional.
        needs: packages that its files import, beside those of this repository.
    """

    name: str
    family: str
    block_length: int | None = None
    needs: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Its directory."""
        return ROOT / "models" / self.name

    @cache  # noqa: B019  # as many as there are checkpoints
    def reference(self) -> dict:
        """ids (1, N) with masks, logits (1, N, V), mask, transformers (a version), prompts: text -> ids, out."""
        return torch.load(ROOT / "refs" / f"{self.name}.pt", weights_only=True)

    @property
    def missing(self) -> str:
        """Why it cannot be loaded here; empty: it can."""
        if not (self.path / "config.json").is_file():
            return "needs the public model files (REAL_MODELS)"
        absent = [package for package in self.needs if importlib.util.find_spec(package) is None]
        return f"its files import {', '.join(absent)}" if absent else ""


SDAR_NEEDS = ("flash_attn", "einops", "triton")
KNOWN = (
    RealModel("llada", "llada"),
    RealModel("llada_fast", "llada", needs=("einops",)),
    RealModel("llada_dare", "llada"),
    RealModel("llada_moe", "llada_moe"),
    RealModel("dream", "dream"),
    RealModel("dream_dllm", "dream"),
    RealModel("dream_fast", "dream"),
    RealModel("dream_dare", "dream"),
    RealModel("sdar", "sdar", BLOCK, SDAR_NEEDS),
    RealModel("sdar_dare8b", "sdar", BLOCK, SDAR_NEEDS),
    RealModel("sdar_moe", "sdar", BLOCK, ("flash_attn",)),
    RealModel("trado", "sdar", BLOCK, ("flash_attn",)),
    RealModel("llada2", "llada2", BLOCK),
    RealModel("llada21", "llada2", BLOCK),
    RealModel("llada2_dllm", "llada2", BLOCK),
    RealModel("a2d_qwen2", "a2d"),
    RealModel("a2d_qwen3", "a2d"),
    RealModel("a2d_llama", "a2d"),
)
REAL_MODELS = {model.name: model for model in KNOWN}


def real_models(*names: str):
    """Parametrise ``real`` over the named checkpoints, all without a name; those that are not there are skipped."""
    chosen = [REAL_MODELS[name] for name in names or REAL_MODELS]
    marks = [pytest.mark.skipif(bool(model.missing), reason=model.missing or "it is there") for model in chosen]
    return pytest.mark.parametrize(
        "real",
        [pytest.param(model, marks=mark, id=model.name) for model, mark in zip(chosen, marks, strict=True)],
    )
