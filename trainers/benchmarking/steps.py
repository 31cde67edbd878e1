"""One training step (score the states of a batch, backward, AdamW): all weights, or a LoRA adapter, with or without
activation checkpointing.

MFU (Chowdhery et al. 2022, 2204.02311, appendix B) counts the arithmetic that the step cannot do without: of a
forward, and as much again for each kind of gradient, of activations always and of weights where they are trained. What
checkpointing runs a second time does not count.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, cast

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from core.nelbo import TrajectoryNELBOLoss
from core.scoring import Draws
from trainers.benchmarking.counters import watch
from trainers.benchmarking.losses import Text, draw_share
from trainers.benchmarking.memory import peak_memory
from trainers.benchmarking.roofline import Costs, PeakMeter, seconds
from trainers.benchmarking.tables import Spread, mebibytes, share
from trainers.models.adapters import lora_config
from trainers.models.policy import Policy
from trainers.settings.model import ModelArguments

FULL = "full"
LORA = "lora"
TRAINED = (FULL, LORA)


@dataclass(frozen=True)
class TrainingStep:
    """One row.

    Attributes:
        trained: `FULL` or `LORA`.
        checkpointed: whether activations are computed again rather than kept.
        vocabulary, num_draws: V, M.
        weights, trainable: how many, and how many of them are trained.
        seconds: of each repeat.
        tokens: of the completions, B * L.
        positions: run through the model, B * M * (P + L).
        peak_bytes: memory beyond the weights: activations, gradients, AdamW's moments.
        mfu: share of the peak arithmetic, by the median time.
        loss: of the first step, nats a completion.
    """

    trained: str
    checkpointed: bool
    vocabulary: int
    num_draws: int
    weights: int
    trainable: int
    seconds: list[float]
    tokens: int
    positions: int
    peak_bytes: int
    mfu: float
    loss: float

    HEADINGS: ClassVar[tuple[str, ...]] = (
        "training step", "V", "M", "weights, M", "trained, M", "ms", "tokens/s", "positions/s", "peak MiB", "MFU",
        "loss",
    )  # fmt: skip

    def cells(self) -> list[str]:
        """The row as text under `HEADINGS`: weights in millions, milliseconds, rates a second, MiB, MFU in percent."""
        took = Spread.of(self.seconds)
        return [
            self.trained + (", checkpointed" if self.checkpointed else ""),
            str(self.vocabulary),
            str(self.num_draws),
            f"{self.weights / 1e6:.3g}",
            f"{self.trainable / 1e6:.3g}",
            str(Spread.of([1000 * each for each in self.seconds])),
            took.rate(self.tokens),
            took.rate(self.positions),
            mebibytes(self.peak_bytes),
            share(self.mfu),
            f"{self.loss:.6g}",
        ]

    def describe(self) -> dict[str, Any]:
        """The row for results.json."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def measure_step(
    policy: Policy,
    text: Text,
    trained: str,
    checkpointed: bool,
    num_draws: int,
    share: float,
    lora_r: int,
    peaks: PeakMeter,
    repeats: int,
    seed: int,
) -> TrainingStep:
    """The policy is trained: load it anew for the next row.

    Args:
        policy: on the device where it is to be trained.
        text: what is scored.
        trained: `FULL`, or `LORA` of all linear layers.
        checkpointed: see `TrainingStep`.
        num_draws: M, states of each completion.
        share: of the canvas that is hidden in each state.
        lora_r: rank of the adapter.
        peaks: measured beside every step.
        repeats: timed steps, after an untimed one.
        seed: of the states.
    """
    policy = _trainable(policy, trained, checkpointed, lora_r)
    step = _Step(policy, text, draw_share(text, num_draws, share, seed), num_draws)
    device, losses = text.ids.device, []
    flop = step.flop(2 if trained == LORA else 3)
    peak = peak_memory(lambda: losses.append(step()), device)
    taken = []
    for _ in range(repeats):
        peaks.measure()
        taken.append(seconds(step, device))
    rows, length = text.ids.shape
    return TrainingStep(
        trained=trained,
        checkpointed=checkpointed,
        vocabulary=policy.model.config.vocab_size,
        num_draws=num_draws,
        weights=sum(weight.numel() for weight in policy.model.parameters()),
        trainable=sum(weight.numel() for weight in step.weights()),
        seconds=taken,
        tokens=rows * length,
        positions=rows * num_draws * (length + text.prompt_ids.size(1)),
        peak_bytes=peak,
        mfu=flop / (Spread.of(taken).median * peaks.best.flops),
        loss=losses[0].item(),
    )


def _trainable(policy: Policy, trained: str, checkpointed: bool, lora_r: int) -> Policy:
    """The policy in training mode, all of it or an adapter on it."""
    if trained == LORA:
        adapter = lora_config(ModelArguments(use_peft=True, lora_r=lora_r))
        assert adapter is not None  # as one is asked for
        policy = replace(policy, model=get_peft_model(policy.model, adapter))
    policy.model.train()
    if checkpointed:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


class _Step:
    """Score, backward, AdamW."""

    def __init__(self, policy: Policy, text: Text, draws: Draws, num_draws: int):
        self.policy, self.text, self.draws = policy, text, draws
        self.loss, self.denoiser = TrajectoryNELBOLoss(num_draws=num_draws), policy.denoiser()
        self.optimiser = torch.optim.AdamW(self.weights(), lr=1e-6)

    def weights(self) -> Iterator[torch.nn.Parameter]:
        return (weight for weight in self.policy.model.parameters() if weight.requires_grad)

    def __call__(self) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._score()
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _score(self) -> Tensor:
        text = self.text
        estimate = self.loss.score(self.denoiser, text.prompt_ids, text.prompt_mask, text.ids, self.draws)
        return estimate.sequence_bound.mean()

    def flop(self, passes: int) -> float:
        """Of a step that is worth so many forwards; adapters are left out, they are a thousandth of it."""
        model = self.policy.model
        inner = cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model
        with torch.no_grad():
            self._score()  # the first time the denoiser also looks at the model, which is no part of a step
            with watch(inner) as calls:
                self._score()
        return passes * Costs(inner.config, itemsize=1).flop(calls)
