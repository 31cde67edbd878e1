"""What a mixin in front of a transformers trainer takes from the class behind it.

That class is known where the two are put together, so to Python a mixin's base is `object`. A type checker reads
`TrainerBehind` in its place: the part of a `transformers.Trainer` that the mixins read, call or override.
"""
# ruff: noqa: D102 (transformers documents them)

from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState

if TYPE_CHECKING:

    class TrainerBehind:
        """Attributes and methods under the names of `transformers.Trainer`, whose documentation they have."""

        args: Any
        state: TrainerState
        model: nn.Module
        accelerator: Accelerator
        current_gradient_accumulation_steps: int
        loss_is_scaled_for_ga: Any

        def __init__(self, *args: Any, **kwargs: Any): ...
        def add_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None: ...
        def train(self, *args: Any, **kwargs: Any) -> Any: ...
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor: ...
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any: ...
        def compute_loss_context_manager(self) -> Any: ...
        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None: ...
        def _prepare_inputs(self, inputs: Any) -> Any: ...
        def _save_checkpoint(self, model: nn.Module, trial: Any) -> None: ...
        def _get_output_dir(self, trial: Any) -> str: ...
        def _push_from_checkpoint(self, checkpoint_folder: str) -> None: ...

else:
    TrainerBehind = object
