"""Forwards that are another function in train mode (SDAR's adds noise and wants labels), run as in eval.

The module itself stays in train mode: dropout, activation checkpointing and whoever asks for its mode go by that.
"""

from collections.abc import Callable
from functools import wraps
from inspect import unwrap
from typing import Any

from torch import nn

OWN = "runs_in_eval"  # attribute of a forward: the one that it stands for


def mode_readers(model: nn.Module) -> list[type[nn.Module]]:
    """Classes of a model's modules, torch's own left out, whose forward asks whether it is training, by name."""
    kinds = {type(module) for module in model.modules() if not type(module).__module__.startswith("torch.")}
    asking = (kind for kind in kinds if "training" in _names(kind.forward))
    return sorted(asking, key=lambda kind: kind.__qualname__)


def run_as_in_eval(kind: type[nn.Module]) -> None:
    """Let the forward of a class, and nothing else, take its modules for ones in eval mode; for all models of it,
    copies included."""
    own = kind.forward

    @wraps(own)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        training, self.training = self.training, False
        try:
            return own(self, *args, **kwargs)
        finally:
            self.training = training

    setattr(forward, OWN, own)
    kind.forward = forward


def run_as_it_is(kind: type[nn.Module]) -> None:
    """Undo `run_as_in_eval`."""
    kind.forward = getattr(kind.forward, OWN)


def runs_as_in_eval(kind: type[nn.Module]) -> bool:
    """Whether `run_as_in_eval` was done to a class."""
    return hasattr(kind.forward, OWN)


def _names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """What a function reads of others; of one that is not Python, nothing."""
    code = getattr(unwrap(forward), "__code__", None)
    return () if code is None else code.co_names
