"""What a run asks of its model: the real sampler and the real likelihood, with a model that only counts.

Nothing about samplers, caches or estimators is written down here a second time: `CountingDenoiser` stands where the
model stands, answers with random tokens, and writes down what was fed, attended to and predicted.
"""

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoisers import CachedDenoiser, KeyValues
from core.denoisers.attention import clean_part
from core.masking_strategy import sync_masking_with_nelbo
from core.scoring import Draws, Likelihood
from core.trajectory import Trajectory
from trainers.benchmarking.counters import Calls, Pass
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.objects import build_generator, build_likelihood, build_loss, build_masking
from trainers.settings.sft import DiffusionSFTConfig

MASK, EOS, FIRST = 0, 1, 2  # tokens of the counting model; from FIRST on they are text
VOCABULARY = 8
SEED = 0  # of the random texts and masks: one plan gives one set of numbers

Planned = ImprovedDiffuGRPOConfig | DiffusionSFTConfig  # the options of the trainers that a plan knows
Key = TypeVar("Key")


@dataclass(frozen=True)
class Lengths:
    """Tokens of a text.

    Attributes:
        prompt: P, of the mean prompt.
        longest: of the longest, which decides the memory.
        completion: up to and including EOS, at most the canvas.
    """

    prompt: int
    longest: int
    completion: int


@dataclass(frozen=True)
class Blocks:
    """Of a block-causal model.

    Attributes:
        length: tokens of a block.
        of_text: whether they are counted from the start of the text, its prompt included.
    """

    length: int
    of_text: bool = False


class CountingDenoiser(CachedDenoiser):
    """Knows no text: every token is as likely as another, up to a fixed place where the text ends.

    Args:
        prompt_length: P.
        ends_at: the canvas position of the first EOS; the canvas' length where there is none.
        blocks: of a block-causal model; None: bidirectional.
        skips: whether the last feed-forward module runs at predicted positions only.
    """

    mask_id = MASK

    def __init__(self, prompt_length: int, ends_at: int, blocks: Blocks | None, skips: bool = True):
        self.prompt_length, self.ends_at = prompt_length, ends_at
        self.block_length = None if blocks is None else blocks.length
        self.skips, self.calls = skips, Calls()
        self.prompt_in_blocks = blocks is not None and blocks.of_text
        self._noise = torch.Generator().manual_seed(SEED)

    def logits(
        self,
        ids: Int[Tensor, "B N"],
        attention_mask: Tensor | None,
        rows: Bool[Tensor, "B N"],
        position_ids: Int[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "R V"]:
        """Count a forward over all N positions, and answer with random logits (R, V) for ``rows``."""
        self._count(ids, ids.size(1), int(rows.sum()))
        return self._answer(rows.nonzero()[:, 1])

    def logits_at(
        self, ids: Int[Tensor, "B N"], attention_mask: Tensor | None, columns: Int[Tensor, "B K"]
    ) -> Float[Tensor, "R V"]:
        """Count a forward over all N positions, and answer with random logits (B * K, V) for ``columns``."""
        self._count(ids, ids.size(1), columns.numel())
        return self._answer(columns.flatten())

    def logits_with(
        self,
        ids: Int[Tensor, "B Q"],
        positions: Int[Tensor, "B Q"],
        visible: Bool[Tensor, "B Q K"] | None,
        memory: KeyValues | None,
        columns: Int[Tensor, "B C"],
    ) -> tuple[Float[Tensor, "R V"], KeyValues]:
        """Count a forward over Q positions that attend to the memory too; its keys and values are zeros of size 1."""
        stored = 0 if memory is None else len(memory)
        self._count(ids, stored + ids.size(1), columns.numel())
        written = (torch.zeros(ids.size(0), 1, ids.size(1), 1),)
        return self._answer(positions.gather(1, columns).flatten()), KeyValues(written, written)

    def _count(self, ids: Tensor, attended: int, predicted: int) -> None:
        self.calls.body[Pass(ids.size(0), ids.size(1), attended)] += 1
        self.calls.head[predicted] += 1
        self.calls.last_feed_forward[predicted if self.skips else ids.numel()] += 1

    def _answer(self, positions: Int[Tensor, " R"]) -> Float[Tensor, "R V"]:
        """Text before the end, EOS from there on; hardly any difference between tokens, so that none is sure."""
        logits = 1e-3 * torch.rand(len(positions), VOCABULARY, generator=self._noise)
        logits[:, MASK] = float("-inf")
        ended = positions - self.prompt_length >= self.ends_at
        logits[~ended, EOS] = float("-inf")
        logits[ended, FIRST:] = float("-inf")
        return logits


@dataclass(frozen=True)
class Work:
    """What one process asks of its model.

    Attributes:
        rollout: of one rollout of all its rows; empty for SFT.
        scored: of one forward of the loss over a micro-batch, all its states.
        states: rows of a forward of the loss, at most.
        predicted: positions that one forward of the rollout predicts, at most.
        trajectory: a batch of the rollout, for its lengths.
    """

    rollout: Calls
    scored: Calls
    states: int
    predicted: int = 0
    trajectory: Trajectory | None = field(default=None, repr=False)


def count_work(args: Planned, lengths: Lengths, blocks: Blocks | None, evaluations: int | None) -> Work:
    """What a process of this run asks of its model.

    Args:
        args: the run's options.
        lengths: of the texts.
        blocks: of a block-causal model; None: bidirectional.
        evaluations: of a completion by an adaptive sampler; None: its upper limit, one a token.
    """
    micro = args.per_device_train_batch_size
    if isinstance(args, DiffusionSFTConfig):
        scored, states = _score(args, build_loss(args), lengths, micro, blocks, None)
        return Work(Calls(), scored, states)
    assert isinstance(args, ImprovedDiffuGRPOConfig)
    assert args.steps_per_generation is not None  # TRL settles it
    rows, size = micro * args.steps_per_generation, args.rollout_batch_size or micro
    rollout, trajectory = Calls(), None
    for batch, times in Counter([size] * (rows // size) + [rows % size]).items():
        if batch:
            calls, made = _roll_out(args, lengths, batch, blocks, evaluations)
            rollout = add(rollout, calls, times)
            trajectory = trajectory or made
    assert trajectory is not None
    likelihood = build_likelihood(args, None if blocks is None else blocks.length)
    scored, states = _score(args, likelihood, lengths, micro, blocks, trajectory)
    return Work(rollout, scored, states, max(rollout.head), trajectory)


def _roll_out(
    args: ImprovedDiffuGRPOConfig, lengths: Lengths, rows: int, blocks: Blocks | None, evaluations: int | None
) -> tuple[Calls, Trajectory]:
    """One batch of completions, of whole groups as far as they go."""
    if evaluations is not None:
        args = copy.copy(args)  # as many steps of a rule that knows how many it takes
        args.sampler, args.max_timesteps = "count_matched", evaluations
    ends = lengths.completion < args.max_completion_length
    ends_at = lengths.completion - 1 if ends else args.max_completion_length
    denoiser = CountingDenoiser(lengths.prompt, ends_at, blocks)
    masking = build_masking(args)
    schedule = sync_masking_with_nelbo(masking, build_loss(args))
    sampler = build_generator(args, denoiser, schedule, masking, EOS)
    assert args.num_generations is not None  # TRL has divided by it
    group = torch.arange(rows) // args.num_generations
    prompts = (FIRST + group).unsqueeze(1).expand(-1, lengths.prompt)
    noise = torch.Generator().manual_seed(SEED)
    trajectory = sampler.generate(prompts, torch.ones_like(prompts), noise)
    return denoiser.calls, trajectory


def _score(
    args: DiffusionArguments,
    likelihood: Likelihood,
    lengths: Lengths,
    rows: int,
    blocks: Blocks | None,
    trajectory: Trajectory | None,
) -> tuple[Calls, int]:
    """One scoring of a micro-batch, and the rows of its largest forward."""
    masking = build_masking(args)
    sync_masking_with_nelbo(masking, likelihood)
    canvas, noise = args.max_completion_length, torch.Generator().manual_seed(SEED)
    if trajectory is not None:  # as many rows as wanted, whatever the rollout's batches were
        trajectory = trajectory[torch.arange(rows) % len(trajectory)]
    draws = likelihood.draw(masking, rows, canvas, lengths.prompt, noise, trajectory=trajectory)
    fed = lengths.prompt + canvas
    if blocks is not None:  # beside the clean text, see core.scoring.states
        beside = clean_part(torch.ones(1, lengths.prompt), canvas, blocks.length, blocks.of_text)
        fed += beside.stop - beside.start
    states = draws.hidden.size(0) * draws.hidden.size(1)
    group = min(args.states_per_forward or states, states)
    predicted = _per_state(likelihood, draws)
    skips = not args.gradient_checkpointing
    calls = Calls()
    for start in range(0, states, group):
        some = predicted[start : start + group]
        calls.body[Pass(len(some), fed, fed)] += 1
        calls.head[int(some.sum())] += 1
        calls.last_feed_forward[int(some.sum()) if skips else len(some) * fed] += 1
    return calls, group


def _per_state(likelihood: Likelihood, draws: Draws) -> Int[Tensor, " S"]:
    """Predicted positions of each state."""
    return likelihood.predicted(draws).flatten(0, 1).sum(dim=1)


def add(calls: Calls, others: Calls, times: int) -> Calls:
    """These, and others so many times."""
    return Calls(
        body=_plus(calls.body, others.body, times),
        head=_plus(calls.head, others.head, times),
        last_feed_forward=_plus(calls.last_feed_forward, others.last_feed_forward, times),
    )


def _plus(own: Counter[Key], more: Counter[Key], times: int) -> Counter[Key]:
    total = Counter(own)
    total.update({each: times * count for each, count in more.items()})
    return total
