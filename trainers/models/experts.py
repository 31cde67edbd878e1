"""Mixtures of experts: which models are ones, and where an adapter goes in them."""

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

# what configs call the number of experts of a layer
COUNTS = ("num_experts", "n_routed_experts", "num_local_experts")
ROUTERS = "router_aux_loss_coef"  # of configs: the weight of a loss of the routers
ATTENTION = ("attn", "attention")  # in the name of a module


def has_experts(config: PretrainedConfig) -> bool:
    """Whether a model's feed-forward modules are mixtures of experts, as its config says."""
    return any((getattr(config, name, None) or 0) > 1 for name in COUNTS)


def trains_separate_experts(model: nn.Module) -> bool:
    """Whether experts that are trained are modules of their own: one that no token went to then has no gradient."""
    lists = (m for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and name.endswith("experts"))
    return any(parameter.requires_grad for experts in lists for parameter in experts.parameters())


def attention_linears(model: PreTrainedModel) -> list[str]:
    """Names of the linear modules of attention with the module that they are in, such as "self_attn.q_proj"; each once
    for all layers."""
    names = {
        ".".join(path[-2:])
        for path in (name.split(".") for name, module in model.named_modules() if isinstance(module, nn.Linear))
        if any(kind in part for part in path[:-1] for kind in ATTENTION)
    }
    return sorted(names)
