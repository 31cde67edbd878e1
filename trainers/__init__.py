"""Training: the YAML, the models, GRPO, SFT and DPO on Hugging Face TRL, the report. Imports core; core never imports
this.

What `HOMES` names is handed on when it is asked for (PEP 562): the import of this package alone loads no library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.dpo import DiffusionDPOTrainer as DiffusionDPOTrainer
    from trainers.grpo import ImprovedDiffuGRPOTrainer as ImprovedDiffuGRPOTrainer
    from trainers.models.loading import load_policy as load_policy
    from trainers.settings.dpo import DiffusionDPOConfig as DiffusionDPOConfig
    from trainers.settings.grpo import ImprovedDiffuGRPOConfig as ImprovedDiffuGRPOConfig
    from trainers.settings.sft import DiffusionSFTConfig as DiffusionSFTConfig
    from trainers.sft import DiffusionSFTTrainer as DiffusionSFTTrainer

HOMES = {
    "ImprovedDiffuGRPOTrainer": "trainers.grpo",
    "ImprovedDiffuGRPOConfig": "trainers.settings.grpo",
    "DiffusionSFTTrainer": "trainers.sft",
    "DiffusionSFTConfig": "trainers.settings.sft",
    "DiffusionDPOTrainer": "trainers.dpo",
    "DiffusionDPOConfig": "trainers.settings.dpo",
    "load_policy": "trainers.models.loading",
}
__all__ = [*HOMES]  # pyright: ignore[reportUnsupportedDunderAll]  the dict says it once


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
