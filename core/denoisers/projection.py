"""Log-probabilities of given tokens from hidden states, without ever holding all the logits.

The logits of R positions are R * V numbers, of which a loss needs R. `project` makes them a chunk of positions at a
time, keeps two numbers a position (and the normaliser), and makes them again, chunk by chunk, in the backward pass:
there the gradient of log softmax is (one-hot - softmax), so one chunk and its softmax are all that is in memory. The
idea is that of "cut cross-entropy" (Wijmans et al. 2025, 2411.09009, section 4), in torch and for any head module.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import get_device_states, set_device_states

from core.denoisers.vocabulary import Never, fill_

# Logits in one chunk: 16 MiB of float32, of which two are held at a time. But no fewer rows than these, 32 MiB for a
# vocabulary of 126k: thinner matrix products are slower.
CHUNK_LOGITS, CHUNK_ROWS = 2**22, 64


def tempered_logps(logits: Float[Tensor, "R V"], temperature: float) -> Float[Tensor, "R V"]:
    """Log-probabilities of the policy: log softmax(logits / temperature); temperature 0 (greedy) scores at 1."""
    return torch.log_softmax(logits / temperature if temperature > 0 else logits, dim=-1)


def of_targets(
    logps: Float[Tensor, "R V"], targets: Int[Tensor, " R"]
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """The log-probability of each row's target and, without gradient, the entropy of the row, nats, (R,) both."""
    with torch.no_grad():
        entropies = -logps.exp().mul_(logps).nansum(dim=1)  # an impossible token gives 0 * -inf: it counts nothing
    return logps.gather(1, targets.unsqueeze(1)).squeeze(1), entropies


def project(
    head: Callable[[Tensor], Tensor],
    parameters: list[nn.Parameter],
    hidden: Float[Tensor, "R d"],
    targets: Int[Tensor, " R"],
    never: Never,
    temperature: float,
    chunk_rows: int | None = None,
) -> Float[Tensor, "R 2"]:
    """`of_targets` of the tempered log-probabilities of ``head(hidden)``, in float32.

    Autocast and the random state (dropout in a head's adapter) are in the backward pass what they were here. No double
    backward.

    Args:
        head: hidden states (r, d) -> logits (r, V).
        parameters: all weights of ``head`` that are to get a gradient.
        hidden: hidden states, (R, d).
        targets: token ids, (R,).
        never: tokens of probability 0, see `core.denoisers.vocabulary`.
        temperature: as in `tempered_logps`.
        chunk_rows: positions in one chunk; None: by `CHUNK_LOGITS` and `CHUNK_ROWS`.

    Returns:
        The log-probability of each target and the entropy of its distribution (no gradient), (R, 2).
    """
    return _Projection.apply(head, never, temperature or 1.0, chunk_rows, hidden, targets, *parameters)


class _Projection(torch.autograd.Function):
    """One node for all chunks, which hands each weight its gradient once: what DDP's hooks count on."""

    @staticmethod
    def forward(
        ctx: Any,
        head: Callable[[Tensor], Tensor],
        never: Never,
        temperature: float,
        chunk_rows: int | None,
        hidden: Tensor,
        targets: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        rows = chunk_rows
        if rows is None:  # a head of any kind: its output alone knows the vocabulary
            rows = max(CHUNK_ROWS, CHUNK_LOGITS // _call(head, hidden[:1]).size(-1))
        ctx.random = torch.get_rng_state(), get_device_states(hidden)
        values = hidden.new_empty(hidden.size(0), 2, dtype=torch.float32)
        normalisers = hidden.new_empty(hidden.size(0), dtype=torch.float32)
        for start in range(0, hidden.size(0), rows):
            chunk, aim = slice(start, start + rows), targets[start : start + rows]
            logits = _tempered(_call(head, hidden[chunk]), temperature)
            fill_(logits, never, float("-inf"))
            logps = torch.log_softmax(logits, dim=1)
            of_target = logits.gather(1, aim.unsqueeze(1)).squeeze(1)
            del logits  # the next line makes another one of its size
            values[chunk, 0], values[chunk, 1] = of_targets(logps, aim)
            normalisers[chunk] = of_target - values[chunk, 0]
        device = hidden.device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.arguments = head, never, temperature, rows
        ctx.save_for_backward(hidden, targets, normalisers, *parameters)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        hidden, targets, normalisers, *parameters = ctx.saved_tensors
        head, never, temperature, rows = ctx.arguments
        weight = gradient[:, :1] / temperature
        for_hidden = torch.empty_like(hidden)
        linear = _plain_linear(head, ctx.autocast)
        through = _ThroughAutograd(head, parameters) if linear is None else _ThroughLinear(linear, parameters)
        devices, states = ctx.random[1]
        with torch.random.fork_rng(devices, device_type=hidden.device.type), torch.autocast(*ctx.autocast):
            torch.set_rng_state(ctx.random[0])
            set_device_states(devices, states, device_type=hidden.device.type)
            for start in range(0, hidden.size(0), rows):
                chunk = slice(start, start + rows)
                logits = through.logits(hidden[chunk])
                # d log p(target) / d logits = (one-hot - softmax) / temperature
                slope = _tempered(logits, temperature).sub_(normalisers[chunk].unsqueeze(1)).exp_()
                fill_(slope, never, 0.0)
                slope.mul_(-weight[chunk]).scatter_add_(1, targets[chunk].unsqueeze(1), weight[chunk])
                for_hidden[chunk] = through.backward(slope.to(logits.dtype))
        for_parameters = through.gradients
        return None, None, None, None, for_hidden, None, *for_parameters


class _ThroughAutograd:
    """The backward pass of a head of any kind, chunk by chunk; ``gradients`` are those of its weights, summed up."""

    def __init__(self, head: Callable[[Tensor], Tensor], parameters: list[Tensor]):
        self.head, self.parameters = head, parameters
        self.gradients: list[Tensor | None] = [None] * len(parameters)

    def logits(self, hidden: Tensor) -> Tensor:
        self.hidden = hidden.detach().requires_grad_()
        self.output = _call(self.head, self.hidden)
        return self.output.detach().clone()  # to be written to

    def backward(self, slope: Tensor) -> Tensor:
        found = torch.autograd.grad(self.output, [self.hidden, *self.parameters], slope, allow_unused=True)
        self.gradients = [_sum(*pair) for pair in zip(self.gradients, found[1:], strict=True)]
        return found[0]


class _ThroughLinear:
    """The same for a plain linear layer, the usual head: what a chunk brings is added where the sum is, and
    its logits are written over. That saves a matrix of the weights' size and a chunk."""

    def __init__(self, head: nn.Linear, parameters: list[Tensor]):
        self.head = head
        self.gradients = [torch.zeros_like(parameter) for parameter in parameters]

    def logits(self, hidden: Tensor) -> Tensor:
        self.hidden = hidden
        return nn.functional.linear(hidden, self.head.weight, self.head.bias)

    def backward(self, slope: Tensor) -> Tensor:
        for gradient in self.gradients:
            if gradient.ndim == 2:  # of the weight
                gradient.addmm_(slope.t(), self.hidden)
            else:  # of the bias
                gradient.add_(slope.sum(dim=0))
        return slope @ self.head.weight


def _plain_linear(head: Callable[[Tensor], Tensor], autocast: tuple[str, torch.dtype, bool]) -> nn.Linear | None:
    """The module whose own forward ``head`` is, if it is a linear layer without anything around it."""
    if not isinstance(head, MethodType) or autocast[2]:
        return None
    module = head.__self__
    return module if type(module) is nn.Linear and head.__func__ is nn.Linear.forward else None


def _call(head: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """With gradients on whenever the head runs: autocast keeps the weights that it cast, and if it cast them without
    gradients, they would get none afterwards."""
    with torch.enable_grad():
        return head(hidden)


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """In float32, without gradient; a division by 1 would be a pass over all of them."""
    logits = logits.detach().float()
    return logits if temperature == 1 else logits / temperature


def _sum(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """In place, where there is something on both sides."""
    if total is None or part is None:
        return part if total is None else total
    return total.add_(part)
