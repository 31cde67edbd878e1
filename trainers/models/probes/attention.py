"""Attention as a model does it: what padding changes, whether later tokens are seen, whether blocks are kept apart."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch

from core.denoisers.attention import block_causal
from trainers.models.policy import Calling, Policy
from trainers.models.probes.looking import (
    BLOCK,
    LENGTH,
    PADDING,
    REFUSALS,
    Refuse,
    far_length,
    logits_from,
    moved,
    rules,
    same,
    sequence,
)
from trainers.models.remote_code import failure, own_frame

# A token that is not seen changes nothing but the rounding, where experts get other tokens beside it: 1e-6 of what it
# changes where it is seen, with random weights of 1 to 24 layers; what does change was 0.15 and more of it.
UNSEEN = 0.05


def find_padding(policy: Policy, refuse: Refuse) -> Calling:
    """The plainest way to call the model in which padding on the left changes nothing."""
    for calling in _forms(policy):
        try:
            if _hides_padding(replace(policy, calling=calling)):
                return calling
        except REFUSALS:
            continue  # not a form that this model takes
    plain = Calling("none")
    try:
        logits_from(replace(policy, calling=plain).denoiser(), sequence(policy, LENGTH), None)
    except Exception as error:
        refuse(f"one forward of {LENGTH} tokens without padding fails: {_told(policy, error)}", runs=False)
    return plain


def _told(policy: Policy, error: Exception) -> str:
    """An error of a model's forward, with its place where the model has code of its own."""
    own = failure(error, getattr(policy.model.config, "transformers_version", None)) if own_frame(error) else ""
    return own or f"{type(error).__name__}: {error}"


def _forms(policy: Policy) -> Iterator[Calling]:
    """Ways to tell a model what is padding, the plainest first."""
    for padding, counts_padding in product(("mask", "pairwise"), (False, True)):
        for rule in rules(policy) if padding == "pairwise" else rules(policy)[:1]:
            yield Calling(padding, rule, counts_padding)


def _hides_padding(policy: Policy) -> bool:
    """Whether padding on the left changes nothing, where the model is called as the policy says."""
    denoiser, alone = policy.denoiser(), sequence(policy, LENGTH)
    mask = torch.ones(1, PADDING + LENGTH, dtype=torch.int64, device=alone.device)
    mask[:, :PADDING] = 0
    padded = [torch.cat([sequence(policy, PADDING, shift), alone], dim=1) for shift in (1, 2)]
    expected = logits_from(denoiser, alone, None)
    found, changed = (logits_from(denoiser, ids, mask, PADDING + 1) for ids in padded)
    own, other = (logits_from(denoiser, ids, torch.ones_like(mask), PADDING + 1) for ids in padded)
    return moved(found, changed) <= UNSEEN * moved(own, other) and same(policy, expected, found)


def check_bidirectional(policy: Policy, refuse: Refuse) -> None:
    """Later tokens change earlier logits, as earlier ones do later logits, however far away they are."""
    if _sees_later(policy, far_length(policy)):
        return
    if _sees_later(policy, LENGTH):
        refuse(
            f"model.attention=bidirectional, but of {far_length(policy)} tokens the last do not change the logits of "
            f"the first ones, as they do of {LENGTH}: its attention is in blocks or through a window"
        )
    refuse(
        "model.attention=bidirectional, but later tokens do not change the logits of earlier ones: its attention "
        "is causal and does not follow config.is_causal=False"
    )


def _sees_later(policy: Policy, length: int) -> bool:
    """Whether the first logits follow the second half of a text, as the last ones do the first half."""
    half, (ids, other) = length // 2, (sequence(policy, length, shift) for shift in (0, 1))
    changes = torch.cat([ids[:, :half], other[:, half:]], dim=1), torch.cat([other[:, :half], ids[:, half:]], dim=1)
    denoiser = policy.denoiser()
    own, ends, begins = (logits_from(denoiser, states, None) for states in (ids, *changes))
    # three eighths of the text lie between what is changed and what is read
    near = max(1, length // 8)
    return moved(own[:near], ends[:near]) > UNSEEN * moved(own[-near:], begins[-near:])


def find_rule(policy: Policy, refuse: Refuse) -> Calling:
    """The form of a rule that the model follows."""
    seen, runs = "", False
    for rule in rules(policy):
        calling = Calling(attention=rule)
        try:
            seen, runs = _breach(replace(policy, calling=calling)), True
        except REFUSALS as error:
            seen = f"no form of a rule is taken: {_told(policy, error)}"
        if not seen:
            return calling
    refuse(f"model.attention=block_causal, but it does not follow a rule of who sees whom: {seen}", runs)


def _breach(policy: Policy) -> str:
    """How a block-causal model breaks its rule, called as the policy says; empty: it follows it."""
    denoiser, (ids, other) = policy.denoiser(), (sequence(policy, LENGTH, shift) for shift in (0, 1))
    prompt = torch.ones(1, LENGTH - 2 * BLOCK, dtype=torch.int64, device=ids.device)
    visible = block_causal(prompt, 2 * BLOCK, BLOCK, policy.prompt_in_blocks)
    later, within = ids.clone(), ids.clone()
    later[:, -BLOCK:] = other[:, -BLOCK:]
    within[:, -BLOCK - 1] = other[:, -BLOCK - 1]
    early = slice(0, LENGTH - BLOCK - 2)  # of the logits after the first: all before the last token of the first block
    own, hidden, shown = (logits_from(denoiser, states, visible)[early] for states in (ids, later, within))
    everyone = torch.ones_like(visible)
    whole, most, least = (logits_from(denoiser, states, everyone)[early] for states in (ids, later, within))
    if moved(own, hidden) > UNSEEN * moved(whole, most):
        return "tokens of a later block change the logits of an earlier one"
    if moved(own, shown) <= UNSEEN * moved(whole, least):
        return "tokens of a block do not change the logits of earlier ones in it"
    return ""
