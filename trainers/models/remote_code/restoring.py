"""What only ``__init__`` can compute: frequencies of a rotary embedding in a buffer that is not saved, say. A model is
built without memory, and such a buffer is left as whatever the memory held."""

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel


def restore(model: PreTrainedModel) -> None:
    """Compute again what a loaded model's ``__init__`` computes and its checkpoint does not hold: buffers that are not
    saved, and tensors that are plain attributes. No memory is taken for weights."""
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        fresh = type(model)(model.config)
    for name, module in fresh.named_modules():
        loaded = model.get_submodule(name)
        for key in module._non_persistent_buffers_set:
            value, before = module._buffers[key], loaded._buffers.get(key)
            if value is not None and before is not None and value.device.type != "meta":
                loaded._buffers[key] = value.to(before)  # its device and dtype
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and vars(loaded)[key].device.type == "meta":
                setattr(loaded, key, value.to(_device(loaded, model)))


def _device(module: nn.Module, model: PreTrainedModel) -> torch.device:
    return next((buffer.device for buffer in module.buffers()), model.device)
