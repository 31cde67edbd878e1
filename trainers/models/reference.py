"""The reference policy of full fine-tuning: a frozen copy of the model in hand."""

import copy

from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel

from trainers.models.policy import Policy


def frozen_copy(policy: Policy, adapter: PeftConfig | None) -> PreTrainedModel | None:
    """What a run starts from; to be called before TRL has the model.

    TRL itself reloads the reference from disk by name, which is not the model in hand once it was changed in memory.
    And it patches the model's forward, after which a copy would run the original's weights.

    Args:
        policy: the model to be trained.
        adapter: the adapter that TRL is to put around it, if any.

    Returns:
        The copy; None where an adapter is trained, without which (or a frozen copy of which) the model is its own
        reference.
    """
    if adapter is not None or isinstance(policy.model, PeftModel):
        return None
    return copy.deepcopy(policy.model).requires_grad_(False)
