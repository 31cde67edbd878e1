"""The kinds of checkpoints that are read into transformers' own classes."""

from trainers.models.native.a2d import A2D_LLAMA, A2D_QWEN2, A2D_QWEN3
from trainers.models.native.dream import DREAM
from trainers.models.native.llada import LLADA
from trainers.models.native.llada2 import LLADA2
from trainers.models.native.llada_moe import LLADA_MOE
from trainers.models.native.records import Entries, Native
from trainers.models.native.sdar import SDAR, SDAR_MOE

# by the architecture that the original's config.json names
NATIVES: dict[str, Native] = {
    record.architecture: record
    for record in (LLADA, LLADA_MOE, LLADA2, DREAM, SDAR, SDAR_MOE, A2D_LLAMA, A2D_QWEN2, A2D_QWEN3)
}


def record_of(entries: Entries) -> Native | None:
    """The kind of a checkpoint, by the entries of its config.json; None: it is none of these."""
    architectures = entries.get("architectures") or [""]
    return NATIVES.get(architectures[0])
