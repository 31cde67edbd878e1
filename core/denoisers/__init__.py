"""The seam to a model: token ids in, logits of chosen positions out.

    denoiser.py           `Denoiser`, the interface; `ModelDenoiser`, a torch model behind it
    cached_denoiser.py    a part of the sequence beside keys and values of the rest
    attention.py          who sees whom: bidirectional, block-causal, annealed
    annealed_denoiser.py  a denoiser under such a rule; unpadded.py: rows of equal length, for models that ignore masks
    projection.py         log-probabilities of chosen tokens, without all logits; partial_forward.py: a model cut short
    vocabulary.py         what is never predicted: the mask token, rows without a token

On the lowest floor: imports nothing of ours.
"""

from core.denoisers.annealed_denoiser import AnnealedDenoiser
from core.denoisers.cached_denoiser import CachedDenoiser, KeyValues
from core.denoisers.denoiser import Denoiser, EmbeddingDenoiser, ModelDenoiser
from core.denoisers.unpadded import UnpaddedDenoiser

__all__ = [
    "AnnealedDenoiser",
    "CachedDenoiser",
    "Denoiser",
    "EmbeddingDenoiser",
    "KeyValues",
    "ModelDenoiser",
    "UnpaddedDenoiser",
]
