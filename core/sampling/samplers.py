"""The step rules of the denoising loop: what a transition of the grid does to a canvas.

Timed or counted, they keep the law that the masked share of the block at timestep t is 1 - alpha_t:

*ancestral*: every masked token is revealed with the transition's probability; the sampler that the NELBO bounds. How
its tokens are drawn is up to a solver (`core.sampling.solvers`).
*count_matched*: exactly round(L_block (1 - alpha_t)) tokens stay masked, or what another rule of `COUNTS` says
(`core.sampling.counts`); a selection rule says which (LLaDA's uniform counts are the linear schedule). *revise*: the
same counts, but a visible token that the model doubts is masked again.
*renoise*: predict everything, then noise to the next timestep, as `forward_process` does.

Adaptive ones reveal as much as the model is sure of, at least one token of a row an evaluation, until the block is
done; the schedule then says nothing about the rollout, and the loss replays its recorded steps:

*confidence*: all tokens that the model is sure enough of. *entropy_bound*: as many as can be drawn independently at a
bounded price. Both look at the distributions only, so that commit log-probs stay exact.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.masking_strategy import MaskingStrategy
from core.names import look_up
from core.sampling.canvas import Canvas, CanvasStep, Transition
from core.sampling.noise import POSITION, RENOISE


def count_matched(canvas: Canvas, transition: Transition) -> None:
    """Reveal the best-scored positions until as many are left as `core.sampling.counts` says."""
    length = canvas.block.stop - canvas.block.start
    masked, left = (canvas.settings.masked_at(t, length) for t in (transition.t, transition.to))
    if masked == left:
        return
    columns = canvas.columns(masked)
    drawn = canvas.predict(columns, transition.t)
    scores = canvas.settings.selection.score(drawn, lambda: canvas.chance(POSITION, columns, transition.t).flatten())
    best = scores.view(columns.shape).topk(masked - left, dim=1).indices
    canvas.reveal(columns, _marked(columns, best), drawn)


def ancestral(canvas: Canvas, transition: Transition) -> None:
    """Reveal each masked token with probability (alpha_to - alpha_t) / (1 - alpha_t), by its own uniform number."""
    step = CanvasStep(canvas, transition)
    if bool(step.reveal.any()):
        canvas.settings.solver.step(step)
        canvas.memory = step.memory


def renoise(canvas: Canvas, transition: Transition) -> None:
    """Predict every masked token, then noise the block to the next timestep (all its tokens, old and new)."""
    if canvas.most > 0:
        with canvas.passing_over_finished():
            columns = canvas.columns(canvas.most)
            canvas.reveal(columns, _everywhere(columns), canvas.predict(columns, transition.t))
    whole = canvas.columns(canvas.block.stop - canvas.block.start)
    canvas.hide(whole, canvas.settings.masking.hide(canvas.chance(RENOISE, whole, transition.t), transition.to))


def revise(canvas: Canvas, transition: Transition) -> None:
    """Predict every token, visible ones too, and mask again what the model believes in least, until
    round(L_block * mask_prob) are masked.

    A position is scored by the log-probability of the token that stands there, old or just drawn: remasking by
    confidence as in P2 (Peng et al. 2025, 2502.03540, self-planning). Visible tokens are positions that the bound does
    not train; `core.scheduled_sampling` says how to.
    """
    length = canvas.block.stop - canvas.block.start
    masked, left = (canvas.settings.masked_at(t, length) for t in (transition.t, transition.to))
    if left == length or left == masked == 0:
        return
    columns = canvas.columns(length)
    drawn = canvas.predict(columns, transition.t)
    canvas.reveal(columns, _everywhere(columns), drawn)
    scores = drawn.logps_of(canvas.at(canvas.ids, columns).flatten()).view(columns.shape)
    canvas.hide(columns, _marked(columns, scores.topk(left, dim=1, largest=False).indices))


def confidence(canvas: Canvas, transition: Transition) -> None:
    """Reveal every position whose likeliest token has at least the probability ``threshold``, and the surest one
    (Fast-dLLM, Wu et al. 2025, 2505.22618, confidence-aware decoding, which drew greedily)."""
    columns = canvas.columns(canvas.most)
    drawn = canvas.predict(columns, transition.t)
    scores = drawn.top_logps.view(columns.shape).masked_fill(~canvas.open(columns), -math.inf)
    sure = scores >= math.log(canvas.settings.threshold)
    canvas.reveal(columns, sure | _marked(columns, scores.argmax(dim=1, keepdim=True)), drawn)


def entropy_bound(canvas: Canvas, transition: Transition) -> None:
    """Reveal the longest run of positions, by rising entropy, with sum H - max H <= ``entropy_bound`` nats
    (EB-Sampler, Ben-Hamu et al. 2025, 2505.24857): the sum bounds what drawing them independently of one another
    loses against drawing them one by one. The first position always satisfies it."""
    columns = canvas.columns(canvas.most)
    drawn = canvas.predict(columns, transition.t)
    entropies = drawn.entropies.view(columns.shape).masked_fill(~canvas.open(columns), math.inf)
    rising = entropies.sort(dim=1)
    before = rising.values.cumsum(dim=1).roll(1, dims=1)  # rising: sum H - max H is the sum of those before
    before[:, 0] = 0.0
    within = torch.zeros_like(columns, dtype=torch.bool)
    within.scatter_(1, rising.indices, before <= canvas.settings.entropy_bound)
    canvas.reveal(columns, within, drawn)


def _marked(columns: Tensor, chosen: Tensor) -> Tensor:
    """True at the chosen entries of each row, (n, K)."""
    return torch.zeros_like(columns, dtype=torch.bool).scatter(1, chosen, True)


def _everywhere(columns: Tensor) -> Tensor:
    return torch.ones_like(columns, dtype=torch.bool)


@dataclass(frozen=True)
class Sampler:
    """A step rule.

    Attributes:
        step: (canvas, transition) -> None; writes into the canvas.
        selects: whether a selection rule chooses the positions.
        solves: whether a solver draws the tokens.
        timed: whether tokens are masked by timestep.
        adaptive: whether the model decides how many tokens a step reveals, at least one of every row that is not done.
        final: whether a revealed token stays; only then may a row stop early, and only then is its path replayable.
    """

    step: Callable[[Canvas, Transition], None]
    selects: bool = False
    solves: bool = False
    timed: bool = True
    adaptive: bool = False
    final: bool = True


SAMPLERS: dict[str, Sampler] = {
    "count_matched": Sampler(count_matched, selects=True, timed=False),
    "ancestral": Sampler(ancestral, solves=True),
    "renoise": Sampler(renoise, final=False),
    "revise": Sampler(revise, timed=False, final=False),
    "confidence": Sampler(confidence, timed=False, adaptive=True),
    "entropy_bound": Sampler(entropy_bound, timed=False, adaptive=True),
}


def sampler_named(name: str) -> Sampler:
    """A step rule of `SAMPLERS`.

    Raises:
        ValueError: unknown name.
    """
    return look_up("generation.sampler", name, SAMPLERS)


def check_solves(sampler: str, solver: str) -> None:
    """Raise a ValueError for a solver that the sampler would not ask."""
    if solver != "euler" and not SAMPLERS[sampler].solves:
        raise ValueError(f"generation.solver={solver!r} needs generation.sampler='ancestral', got {sampler!r}")


def check_timed(sampler: str, masking: MaskingStrategy) -> None:
    """Raise a ValueError for a sampler that masks by timestep where the masking knows none."""
    if masking.schedule is None and SAMPLERS[sampler].timed:
        raise ValueError(
            f"generation.sampler={sampler!r} masks by timestep: it needs masking.strategy_type='diffusion'"
        )


def check_certainty(threshold: float, entropy_bound: float) -> None:
    """Raise a ValueError unless the limits of the adaptive samplers are a probability and an entropy in nats."""
    if not 0 < threshold <= 1:
        raise ValueError(f"generation.threshold={threshold}: expected a probability above 0, at most 1")
    if not entropy_bound >= 0:
        raise ValueError(f"generation.entropy_bound={entropy_bound}: expected at least 0 nats")
