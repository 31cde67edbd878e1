"""A policy whose log-probabilities are compared across calls must give the same ones twice: no dropout."""

from torch import nn
from trl.trainer.utils import disable_dropout_in_model

ATTENTION_DROPOUT = "attention_dropout"  # a probability, of transformers' attention modules


def disable_dropout(model: nn.Module) -> None:
    """Turn off dropout modules and the attention dropout that transformers keeps as a number, which TRL leaves on."""
    disable_dropout_in_model(model)
    for module in model.modules():
        if ATTENTION_DROPOUT in vars(module):
            setattr(module, ATTENTION_DROPOUT, 0.0)
