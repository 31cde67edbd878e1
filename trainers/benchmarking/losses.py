"""One likelihood step (score and backward): ours, and the plain form that it must equal.

The plain form is how d1 scores (Zhao et al. 2025, 2504.12216): logits of the whole sequence, log-softmax of the whole
canvas in float32, the targets gathered. Ours projects the scored positions alone, all states in one forward (packed)
or one state of each completion at a time (streamed). All get the same states, weights and backward, so losses and
gradients must agree; the plain form is spared the entropies that ours reports.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.denoisers.vocabulary import fill_
from core.nelbo import TrajectoryNELBOLoss
from core.scoring import Draws, LikelihoodEstimate
from trainers.benchmarking.memory import peak_memory
from trainers.benchmarking.roofline import seconds
from trainers.benchmarking.tables import Spread, mebibytes
from trainers.models.policy import Policy

PLAIN, PACKED, STREAMED = "full logits", "ours, packed", "ours, streamed"


@dataclass(frozen=True)
class Text:
    """What is scored: clean prompts (B, P) without padding, and completions (B, L)."""

    prompt_ids: Tensor
    ids: Tensor

    @property
    def prompt_mask(self) -> Tensor:
        """Ones, (B, P): these prompts have no padding."""
        return torch.ones_like(self.prompt_ids)


def draw_share(text: Text, num_draws: int, share: float, seed: int) -> Draws:
    """M states of each completion in which exactly the rounded ``share`` of its tokens is hidden, chosen at random."""
    batch, length = text.ids.shape
    noise = torch.Generator().manual_seed(seed)
    order = torch.rand(batch, num_draws, length, generator=noise).argsort(dim=2).argsort(dim=2)
    hidden = (order < round(share * length)).to(text.ids.device)
    return Draws(
        hidden=hidden,
        scored=hidden,
        prompt_hidden=torch.zeros(batch, num_draws, text.prompt_ids.size(1), dtype=torch.bool, device=hidden.device),
        weight=torch.full((batch, num_draws), 1 / (share * num_draws), device=hidden.device),
        variance_factor=torch.ones(batch, device=hidden.device),
    )


def full_logits_estimate(policy: Policy, text: Text, draws: Draws) -> LikelihoodEstimate:
    """The estimate from logits of all positions."""
    num_draws, prompt_length = draws.hidden.size(1), text.prompt_ids.size(1)
    canvases = torch.where(draws.hidden, policy.mask_id, text.ids.unsqueeze(1))  # (B, M, L)
    prompts = text.prompt_ids.unsqueeze(1).expand(-1, num_draws, -1)
    states = torch.cat([prompts, canvases], dim=2).flatten(0, 1)  # (B*M, P+L)
    logits = policy.model(input_ids=states).logits.float()[:, prompt_length:]
    fill_(logits, policy.never, float("-inf"))
    targets = text.ids.repeat_interleave(num_draws, dim=0)
    all_logps = torch.log_softmax(logits, dim=-1)
    logps = all_logps.gather(2, targets.unsqueeze(2)).squeeze(2)
    with torch.no_grad():  # which GRPO logs; a sequence at a time, so that the peak is not here
        entropies = torch.stack([-(own.exp() * own).nansum(dim=-1) for own in all_logps])
    logps, entropies = (
        torch.where(draws.scored, values.unflatten(0, (-1, num_draws)), 0.0) for values in (logps, entropies)
    )
    return TrajectoryNELBOLoss(num_draws=num_draws).combine(logps, entropies, draws)


@dataclass(frozen=True)
class LossStep:
    """One form's row.

    Attributes:
        form: `PLAIN`, `PACKED` or `STREAMED`.
        vocabulary, num_draws: V, M.
        seconds: of each repeat.
        speed: times as fast as full logits, repeat by repeat; None at other numbers of draws than theirs.
        peak_bytes: memory beyond the weights, gradients included.
        memory: times less of it than full logits; None as for speed.
        loss: mean sequence value, nats.
        gradient_norm: of its gradient in all weights.
    """

    form: str
    vocabulary: int
    num_draws: int
    seconds: list[float]
    speed: Spread | None
    peak_bytes: int
    memory: float | None
    loss: float
    gradient_norm: float

    HEADINGS: ClassVar[tuple[str, ...]] = (
        "loss step", "V", "M", "ms", "x full logits", "peak MiB", "times less memory", "loss", "gradient norm",
    )  # fmt: skip

    def cells(self) -> list[str]:
        """The row as text under `HEADINGS`: milliseconds, MiB, nats; "-" where there is nothing to compare."""
        return [
            self.form,
            str(self.vocabulary),
            str(self.num_draws),
            str(Spread.of([1000 * each for each in self.seconds])),
            str(self.speed or "-"),
            mebibytes(self.peak_bytes),
            f"{self.memory:.2f}" if self.memory else "-",
            f"{self.loss:.6g}",
            f"{self.gradient_norm:.6g}",
        ]

    def describe(self) -> dict[str, Any]:
        """The row for results.json."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"speed": self.speed and vars(self.speed)}


@dataclass(frozen=True)
class _Form:
    name: str
    num_draws: int
    estimate: Callable[[], LikelihoodEstimate]


def compare_losses(
    policy: Policy, text: Text, numbers: Sequence[int], share: float, repeats: int, seed: int
) -> list[LossStep]:
    """Full logits at the first of ``numbers``, ours packed and streamed at each: once untimed (memory, values, to warm
    up), then ``repeats`` times by turns."""
    forms = _forms(policy, text, numbers, share, seed)
    device = text.ids.device
    measured = [_untimed(policy, form, device) for form in forms]
    taken: list[list[float]] = [[] for _ in forms]
    for _ in range(repeats):
        for form, times in zip(forms, taken, strict=True):
            policy.model.zero_grad(set_to_none=True)
            times.append(seconds(lambda form=form: _step(form), device))

    rows = []
    for form, (peak, loss, norm), times in zip(forms, measured, taken, strict=True):
        same_work = form.num_draws == forms[0].num_draws
        rows.append(
            LossStep(
                form=form.name,
                vocabulary=policy.model.config.vocab_size,
                num_draws=form.num_draws,
                seconds=times,
                speed=Spread.of([a / b for a, b in zip(taken[0], times, strict=True)]) if same_work else None,
                peak_bytes=peak,
                memory=measured[0][0] / peak if same_work else None,
                loss=loss,
                gradient_norm=norm,
            )
        )
    return rows


def _forms(policy: Policy, text: Text, numbers: Sequence[int], share: float, seed: int) -> list[_Form]:
    denoiser = policy.denoiser()

    def ours(name: str, draws: Draws, states_per_forward: int | None) -> _Form:
        loss = TrajectoryNELBOLoss(num_draws=draws.hidden.size(1))
        loss.states_per_forward = states_per_forward
        return _Form(
            name,
            loss.num_draws,
            lambda: loss.score(denoiser, text.prompt_ids, text.prompt_mask, text.ids, draws),
        )

    drawn = [draw_share(text, number, share, seed) for number in numbers]
    plain = _Form(PLAIN, numbers[0], lambda: full_logits_estimate(policy, text, drawn[0]))
    packed = [ours(PACKED, draws, None) for draws in drawn]
    several = [draws for draws, number in zip(drawn, numbers, strict=True) if number > 1]  # one is streamed as it is
    return [plain, *packed, *(ours(STREAMED, draws, text.ids.size(0)) for draws in several)]


def _step(form: _Form) -> Tensor:
    loss = form.estimate().sequence_bound.mean()
    loss.backward()
    return loss.detach()


def _untimed(policy: Policy, form: _Form, device: torch.device) -> tuple[int, float, float]:
    """Peak memory from no gradients to all, the loss, and the gradient's norm."""
    found: list[Tensor] = []
    policy.model.zero_grad(set_to_none=True)
    peak = peak_memory(lambda: found.append(_step(form)), device)
    norms = [weight.grad.float().norm() for weight in policy.model.parameters() if weight.grad is not None]
    return peak, found[0].item(), torch.stack(norms).norm().item()
