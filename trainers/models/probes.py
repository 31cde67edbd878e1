"""What a model does, seen by running it: whether it is what its family, its config and the user say.

Attention and padding show in any weights, trained or not, because a token that is not seen changes nothing. Shift and
mask token show in trained weights only: a text with some tokens hidden is scored under each reading, and where another
reading than the claimed one is clearly better the claim is refused; weights that favour none are left to the claim.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import NoReturn

import torch
from torch import Tensor

from core.denoisers.attention import block_causal
from core.denoisers.denoiser import ModelDenoiser
from trainers.models.caching import RULES, STORES
from trainers.models.policy import Calling, Policy
from trainers.settings.options import ConfigError

LENGTH, PADDING, BLOCK = 12, 3, 4  # tokens of the made-up sequences
# A token that is not seen changes nothing but the rounding, where experts get other tokens beside it: 1e-6 of what it
# changes where it is seen, with random weights of 1 to 24 layers; what does change was 0.15 and more of it.
UNSEEN = 0.05
# Of the logits' standard deviation, root mean square: products of another shape round otherwise, with the same weights
# by up to 3e-6 in float32 and 0.1 in bfloat16, where experts change with it. Wrong positions made 0.7 and more.
LITTLE, LITTLE_IN_HALF = 1e-3, 0.25
CLEARLY = 4.0  # standard errors by which another reading must be better
NATS = 0.5  # a token: and at least by so much
FEWEST = 8  # hidden tokens below which a text says nothing
# what a model raises that is called in a form that it does not take
REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError)
EVERY = 5  # of plain text, one token in so many is hidden; of the answers, every second one


@dataclass(frozen=True)
class Sample:
    """Texts in which every ``every``-th token behind the part that is ``given`` is hidden."""

    texts: tuple[tuple[str, str], ...]  # (given, completed)
    every: int


# What most models know something of: plain English; for one trained on nothing but it, the embedded task.
SAMPLES = (
    Sample(
        (
            (
                "The quick brown fox",
                " jumps over the lazy dog. One, two, three, four, five, six, seven, eight, nine, ten. There are seven "
                "days in a week and twelve months in a year. If you have two apples and you buy three more apples, "
                "then you have five apples. The capital of France is Paris, and the capital of Germany is Berlin. "
                "She opened the door, looked out of the window and said that it was going to rain today.",
            ),
        ),
        EVERY,
    ),
    Sample(
        (
            (
                "Tom has 5 apples and buys 4 more at the shop. How many apples does Tom have now?\nAnswer:",
                "<<5+4=9>>\n#### 9",
            ),
            (
                "Ann has 8 books and gives 3 of them to Ben. How many books does Ann have left?\nAnswer:",
                "<<8-3=5>>\n#### 5",
            ),
            (
                "Sam has 3 boxes with 4 pens in each box. How many pens does Sam have in total?\nAnswer:",
                "<<3*4=12>>\n#### 12",
            ),
        ),
        2,
    ),
)


def probed(policy: Policy, name: str) -> Policy:
    """The policy with what was found out about how its model is to be called.

    Args:
        policy: as its family, its config and the user say it is.
        name: of the model, for messages.

    Raises:
        ConfigError: the model is not what is claimed; the message says what was seen.
    """

    def refuse(seen: str) -> NoReturn:
        raise ConfigError(f"model.name_or_path={name!r}: {seen} (model.probe=false skips this check)")

    with _at_rest(policy):
        if policy.block_length is None:
            policy = replace(policy, calling=_find_padding(policy, refuse))
            _check_bidirectional(policy, refuse)
        else:
            policy = replace(policy, calling=_find_rule(policy, refuse))
        policy = replace(policy, calling=replace(policy.calling, head=_head_is_last(policy)))
        policy = replace(policy, calling=_find_store(policy))
        if policy.block_length is None:
            _check_text(policy, refuse)
    return policy


@contextmanager
def _at_rest(policy: Policy) -> Iterator[None]:
    """Eval mode, no gradient, global randomness put back; on the accelerator if this process has it for itself."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 and not policy.quantised
    if alone and torch.accelerator.is_available():
        policy.model.to(torch.accelerator.current_accelerator())
    device = policy.model.device
    with policy.denoiser().evaluating(), torch.random.fork_rng([] if device.type == "cpu" else [device]):
        yield


def _sequence(policy: Policy, length: int, shift: int = 0) -> Tensor:
    """A row of ordinary tokens, (1, length); others at every position for another ``shift``."""
    special = set(policy.tokenizer.all_special_ids)
    known = min(len(policy.tokenizer), policy.model.get_input_embeddings().weight.size(0))
    stride = max(1, known // (4 * LENGTH))
    ordinary = [token for token in range(known - 1, -1, -stride) if token not in special]
    ids = [ordinary[(i + shift * (length + 1)) % len(ordinary)] for i in range(length)]
    return torch.tensor([ids], device=policy.model.device)


def _logits(denoiser: ModelDenoiser, ids: Tensor, mask: Tensor | None, first: int = 1) -> Tensor:
    """Logits (R, V) of all positions from ``first`` on; position 0 has none if logits are shifted."""
    rows = torch.ones_like(ids, dtype=torch.bool)
    rows[:, :first] = False
    logits = denoiser.logits(ids, mask, rows)
    logits[:, denoiser.mask_id] = 0  # -inf everywhere
    return logits


def _moved(one: Tensor, other: Tensor) -> float:
    """Root mean square of a difference of logits."""
    return float((one - other).square().mean().sqrt())


def _same(policy: Policy, one: Tensor, other: Tensor) -> bool:
    """Whether logits are those of one function, computed in two ways."""
    exact = policy.model.dtype == torch.float32 and not policy.quantised
    little = LITTLE if exact else LITTLE_IN_HALF
    return _moved(one, other) <= little * float(one.std())


def _one_block(policy: Policy, ids: Tensor) -> Tensor | None:
    """What a block-causal model sees of a prompt and one block, (1, N, N); None for a bidirectional one."""
    if policy.block_length is None:
        return None
    return block_causal(torch.ones_like(ids[:, :-BLOCK]), BLOCK, BLOCK, policy.prompt_in_blocks)


# ---- padding -----------------------------------------------------------------------------------------------------


def _find_padding(policy: Policy, refuse: Callable[[str], NoReturn]) -> Calling:
    """The plainest way to call the model in which padding on the left changes nothing."""
    alone = _sequence(policy, LENGTH)
    mask = torch.ones(1, PADDING + LENGTH, dtype=torch.int64, device=alone.device)
    mask[:, :PADDING] = 0
    one, other = (torch.cat([_sequence(policy, PADDING, shift), alone], dim=1) for shift in (1, 2))
    for padding, counts_padding in product(("mask", "pairwise"), (False, True)):
        for rule in _rules(policy) if padding == "pairwise" else _rules(policy)[:1]:
            calling = Calling(padding, rule, counts_padding)
            denoiser = replace(policy, calling=calling).denoiser()
            try:
                expected = _logits(denoiser, alone, None)
                found, changed = (_logits(denoiser, ids, mask, PADDING + 1) for ids in (one, other))
                seen = _moved(*(_logits(denoiser, ids, torch.ones_like(mask), PADDING + 1) for ids in (one, other)))
            except REFUSALS:
                continue  # not a form that this model takes
            if _moved(found, changed) <= UNSEEN * seen and _same(policy, expected, found):
                return calling
    try:
        _logits(replace(policy, calling=Calling("none")).denoiser(), alone, None)
    except Exception as error:
        refuse(f"one forward of {LENGTH} tokens without padding fails: {type(error).__name__}: {error}")
    return Calling("none")


def _rules(policy: Policy) -> list[str]:
    """Ways to say who sees whom, the model's own kernel first."""
    return sorted(RULES, key=lambda name: name != policy.kernel)


def _check_bidirectional(policy: Policy, refuse: Callable[[str], NoReturn]) -> None:
    """Later tokens change earlier logits, as earlier ones do later logits."""
    half, (ids, other) = LENGTH // 2, (_sequence(policy, LENGTH, shift) for shift in (0, 1))
    changes = torch.cat([ids[:, :half], other[:, half:]], dim=1), torch.cat([other[:, :half], ids[:, half:]], dim=1)
    denoiser = policy.denoiser()
    own, ends, begins = (_logits(denoiser, states, None) for states in (ids, *changes))
    # with shifted logits the first of the later half are predicted from the earlier one, and the other way round
    early, late = slice(0, half - 2), slice(half + 1, None)
    if _moved(own[early], ends[early]) <= UNSEEN * _moved(own[late], begins[late]):
        refuse(
            "model.attention=bidirectional, but later tokens do not change the logits of earlier ones: its attention "
            "is causal and does not follow config.is_causal=False"
        )


# ---- block-causal rule -------------------------------------------------------------------------------------------


def _find_rule(policy: Policy, refuse: Callable[[str], NoReturn]) -> Calling:
    """The form of a rule that the model follows."""
    ids, other = (_sequence(policy, LENGTH, shift) for shift in (0, 1))
    prompt = torch.ones(1, LENGTH - 2 * BLOCK, dtype=torch.int64, device=ids.device)
    visible = block_causal(prompt, 2 * BLOCK, BLOCK, policy.prompt_in_blocks)
    later, within = ids.clone(), ids.clone()
    later[:, -BLOCK:] = other[:, -BLOCK:]
    within[:, -BLOCK - 1] = other[:, -BLOCK - 1]
    early = slice(0, LENGTH - BLOCK - 2)  # of the logits after the first: all before the last token of the first block
    seen = ""
    for rule in _rules(policy):
        denoiser = replace(policy, calling=Calling(attention=rule)).denoiser()
        try:
            own, hidden, shown = (_logits(denoiser, states, visible)[early] for states in (ids, later, within))
            visible_all = torch.ones_like(visible)
            whole, most, least = (_logits(denoiser, states, visible_all)[early] for states in (ids, later, within))
        except REFUSALS as error:
            seen = f"no form of a rule is taken: {type(error).__name__}: {error}"
            continue
        if _moved(own, hidden) > UNSEEN * _moved(whole, most):
            seen = "tokens of a later block change the logits of an earlier one"
        elif _moved(own, shown) <= UNSEEN * _moved(whole, least):
            seen = "tokens of a block do not change the logits of earlier ones in it"
        else:
            return Calling(attention=rule)
    refuse(f"model.attention=block_causal, but it does not follow a rule of who sees whom: {seen}")


# ---- head --------------------------------------------------------------------------------------------------------


def _head_is_last(policy: Policy) -> bool:
    """Whether the head may be handed chosen positions only: what it gives is what the model returns."""
    ids = _sequence(policy, LENGTH)
    mask = _one_block(policy, ids)
    whole = _logits(replace(policy, calling=replace(policy.calling, head=False)).denoiser(), ids, mask)
    try:
        return _same(policy, whole, _logits(policy.denoiser(), ids, mask))
    except REFUSALS:
        return False


# ---- cache -------------------------------------------------------------------------------------------------------


def _find_store(policy: Policy) -> Calling:
    """With what makes the model store keys and values, behind which a span of positions gives what the whole gave."""
    own = policy.calling
    if policy.logit_shift or own.counts_padding or own.padding == "none":
        return own  # never run on a span: the denoiser says why
    ids = _sequence(policy, LENGTH)
    places, columns = (torch.arange(n, device=ids.device).unsqueeze(0) for n in (LENGTH, BLOCK))
    rule = _one_block(policy, ids)
    for stores, padding in product(STORES, dict.fromkeys((own.padding, "pairwise"))):
        calling = replace(own, stores=stores, padding=padding)
        denoiser = replace(policy, calling=calling).denoiser()
        try:
            whole, memory = denoiser.logits_with(ids, places, rule, None, columns + LENGTH - BLOCK)
            before = memory.select(slice(0, LENGTH - BLOCK))
            part, _ = denoiser.logits_with(ids[:, -BLOCK:], places[:, -BLOCK:], None, before, columns)
        except REFUSALS:
            continue
        whole[:, policy.mask_id] = part[:, policy.mask_id] = 0
        if _same(policy, whole, part):
            return calling
    return replace(own, stores=None)


# ---- shift and mask token ----------------------------------------------------------------------------------------


def _check_text(policy: Policy, refuse: Callable[[str], NoReturn]) -> None:
    """Refuse a shift or a mask token under which text that the model knows is predicted worse than under another."""
    longest = getattr(policy.model.config, "max_position_embeddings", None) or math.inf
    for sample in SAMPLES:
        encoded = list(_encode(policy, sample, refuse))
        fits = max(ids.size(1) for ids, _ in encoded) <= longest
        if not fits or sum(int(hidden.sum()) for _, hidden in encoded) < FEWEST:
            continue
        claimed = _scores(policy, encoded, policy.mask_id)
        other = _scores(replace(policy, logit_shift=not policy.logit_shift), encoded, policy.mask_id)
        if _clearly_better(policy, other, claimed):
            there, here = ("at", "before") if policy.logit_shift else ("before", "at")
            refuse(
                f"model.logit_shift={str(policy.logit_shift).lower()}, but the logits {there} a hidden token predict "
                f"it better: {float(other.mean()):.2f} nats, against {float(claimed.mean()):.2f} by those {here} it; "
                f"set model.logit_shift={str(not policy.logit_shift).lower()}"
            )
        for token in _candidates(policy):
            scores = _scores(policy, encoded, token)
            if _clearly_better(policy, scores, claimed):
                refuse(
                    f"mask token {_name(policy, policy.mask_id)}: hidden tokens are predicted better behind "
                    f"{_name(policy, token)}: {float(scores.mean()):.2f} nats, against {float(claimed.mean()):.2f}"
                )


def _encode(policy: Policy, sample: Sample, refuse: Callable[[str], NoReturn]) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids (1, N) of each text, and which of them are hidden."""
    for given, completed in sample.texts:
        start = len(policy.tokenizer(given)["input_ids"])
        ids = torch.tensor(policy.tokenizer([given + completed])["input_ids"], device=policy.model.device)
        if bool((ids == policy.mask_id).any()):
            refuse(f"mask token {_name(policy, policy.mask_id)}: plain text contains it, so it cannot hide anything")
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        hidden[:, start + 1 :: sample.every] = True
        yield ids, hidden


def _scores(policy: Policy, encoded: list[tuple[Tensor, Tensor]], mask_id: int) -> Tensor:
    """Log-probabilities of the hidden tokens when ``mask_id`` hides them, nats, (H,)."""
    denoiser = replace(policy, calling=replace(policy.calling, head=False)).denoiser()
    parts = []
    for ids, hidden in encoded:
        logits = denoiser.logits(ids.masked_fill(hidden, mask_id), None, hidden)
        parts.append(logits.log_softmax(dim=1).gather(1, ids[hidden].unsqueeze(1)).squeeze(1))
    return torch.cat(parts).double()


def _clearly_better(policy: Policy, scores: Tensor, claimed: Tensor) -> bool:
    """Better than what is claimed, by a model that knows the text: better than guessing, too."""
    guessed = torch.full_like(scores, -math.log(len(policy.tokenizer)))
    return all(_clearly_above(scores - less) for less in (claimed, guessed))


def _clearly_above(gain: Tensor) -> bool:
    error = float(gain.std()) / len(gain) ** 0.5
    return float(gain.mean()) > max(NATS, CLEARLY * error)


def _candidates(policy: Policy) -> list[int]:
    """Other tokens that may be the mask: what the config names, and bracketed ones that are called so."""
    vocabulary = policy.tokenizer.get_vocab().items()
    named = {token for text, token in vocabulary if "mask" in text.lower() and text[0] + text[-1] in ("<>", "[]")}
    configured = getattr(policy.model.config, "mask_token_id", None)
    return sorted((named | {configured}) - {None, policy.mask_id})


def _name(policy: Policy, token: int) -> str:
    return f"{policy.tokenizer.convert_ids_to_tokens(token)!r} (id {token})"
