"""Activation checkpointing (Chen et al. 2016, 1604.06174) for models of every family."""

from transformers import PreTrainedModel, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from trainers.models.families import FAMILIES
from trainers.models.policy import Policy
from trainers.settings.options import refusal


def checkpoint_activations(policy: Policy, args: TrainingArguments) -> None:
    """Prepare a policy for `training.gradient_checkpointing`, before TRL sees it.

    transformers' own switch is left to the trainer. A family that keeps a switch of its own is switched here, and the
    option is then off: TRL refuses models without transformers' switch.

    Raises:
        ConfigError: the model has neither, or transformers is too old: it computed a layer again with the hooks around
            it, which the scorer's do not survive.
    """
    if not args.gradient_checkpointing:
        return
    if _has_switch(policy.model):
        if "__call__" in vars(GradientCheckpointingLayer):
            raise refusal(args, "gradient_checkpointing", "needs transformers 5.23 or later; expected false, or that")
        return
    family = FAMILIES[policy.family]
    if family.checkpoint_activations is None:
        kind = type(policy.model).__name__
        raise refusal(args, "gradient_checkpointing", f"{kind} has no activation checkpointing; expected false")
    try:
        family.checkpoint_activations(policy.model)
    except (StopIteration, AttributeError, KeyError) as error:
        seen = f"the switch of family {policy.family} is not in this model's code; expected false"
        raise refusal(args, "gradient_checkpointing", seen) from error
    args.gradient_checkpointing = args.activation_checkpointing = False


def _has_switch(model: PreTrainedModel) -> bool:
    """Whether transformers' switch finds something to turn; code that a checkpoint brings may only claim so."""
    layers = any(hasattr(module, "gradient_checkpointing") for module in model.modules())
    return model.supports_gradient_checkpointing and layers
