"""Train mode: a forward must be the same function there as in eval, dropout apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainers.models.policy import Policy
from trainers.models.probes.looking import LENGTH, Refuse, logits_from, one_block, same, sequence
from trainers.models.remote_code.modes import mode_readers, run_as_in_eval, run_as_it_is


class WithoutDropout(TorchFunctionMode):
    """Dropout by modules, by functions and in attention kernels does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's seam for functions: with a probability of 0 where one is named."""
        kwargs = kwargs or {}
        if func in (F.dropout, torch.dropout, F.alpha_dropout, F.dropout1d, F.dropout2d):
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention and kwargs.get("dropout_p"):
            kwargs = kwargs | {"dropout_p": 0.0}
        return func(*args, **kwargs)


def settle_modes(policy: Policy, refuse: Refuse) -> None:
    """Let a forward that is another function in train mode be run as in eval, in as few classes as it takes.

    Of SDAR (2510.06303) that is the model, which would noise the text itself, and its attention. With `refuse`: no
    such choice of classes helps, or what is run in eval lets no gradient through.
    """
    ids = sequence(policy, LENGTH)
    expected = logits_from(policy.denoiser(), ids, one_block(policy, ids))
    seen = _other_in_training(policy, ids, expected)
    if not seen:
        return
    kinds = mode_readers(policy.model)
    for kind in kinds:
        run_as_in_eval(kind)
    still = _other_in_training(policy, ids, expected)
    if still:
        for kind in kinds:
            run_as_it_is(kind)
        refuse(f"its forward is another function in train mode than in eval: {seen}")
    for kind in kinds:
        run_as_it_is(kind)
        if _other_in_training(policy, ids, expected):
            run_as_in_eval(kind)
    with _training(policy), torch.enable_grad():
        lost = _without_gradient(policy, ids)
    if lost:
        refuse(
            "its forward is another function in train mode than in eval, and that of eval lets no gradient through to "
            + lost
        )


def _other_in_training(policy: Policy, ids: Tensor, expected: Tensor) -> str:
    """What is different in train mode; empty: nothing."""
    try:
        with _training(policy):
            found = logits_from(policy.denoiser(), ids, one_block(policy, ids))
    except Exception as error:  # whatever it does with what it was not given
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "" if found.shape == expected.shape and same(policy, expected, found) else "other logits, dropout off"


@contextmanager
def _training(policy: Policy) -> Iterator[None]:
    """Train mode without dropout."""
    policy.model.train()
    try:
        with WithoutDropout():
            yield
    finally:
        policy.model.eval()


def _without_gradient(policy: Policy, ids: Tensor) -> str:
    """The first norm that the logits of a text do not depend on, as the gradient has it; empty: there is none."""
    norms = {
        name: weight
        for name, weight in policy.model.named_parameters()
        if weight.ndim == 1 and "norm" in name and weight.requires_grad
    }
    if not norms:
        return ""
    logits = logits_from(policy.denoiser(), ids, one_block(policy, ids))
    if not logits.requires_grad:
        return next(iter(norms))
    gradients = torch.autograd.grad(logits.square().mean(), list(norms.values()), allow_unused=True)
    return next((name for name, gradient in zip(norms, gradients, strict=True) if gradient is None), "")
