"""What may be left out of a forward: the head where nothing is predicted, and positions that a cache has stored."""

from dataclasses import replace
from itertools import product

import torch

from core.denoisers.vocabulary import fill_
from trainers.models.caching import STORES, CachedModelDenoiser
from trainers.models.policy import Calling, Policy
from trainers.models.probes.looking import (
    BLOCK,
    LENGTH,
    REFUSALS,
    Examiner,
    gap,
    little,
    logits_from,
    one_block,
    sequence,
)


def head_is_last(policy: Policy, examiner: Examiner) -> bool:
    """Whether the head may be handed chosen positions only: what it gives is what the model returns."""
    ids = sequence(policy, LENGTH)
    mask = one_block(policy, ids)
    whole = logits_from(replace(policy, calling=replace(policy.calling, head=False)).denoiser(), ids, mask)
    try:
        chosen = logits_from(policy.denoiser(), ids, mask)
        return examiner.measured("head on chosen positions:", gap(whole, chosen), little(policy))
    except REFUSALS:
        return False


def find_store(policy: Policy, examiner: Examiner) -> Calling:
    """With what makes the model store keys and values, behind which a span of positions gives what the whole gave."""
    own = policy.calling
    if policy.logit_shift or own.counts_padding or own.padding == "none":
        return own  # never run on a span: the denoiser says why
    ids = sequence(policy, LENGTH)
    places, columns = (torch.arange(n, device=ids.device).unsqueeze(0) for n in (LENGTH, BLOCK))
    rule = one_block(policy, ids)
    for stores, padding in product(STORES, dict.fromkeys((own.padding, "pairwise"))):
        calling = replace(own, stores=stores, padding=padding)
        denoiser = replace(policy, calling=calling).denoiser()
        assert isinstance(denoiser, CachedModelDenoiser)  # padding is not none, and something is to store
        try:
            whole, memory = denoiser.logits_with(ids, places, rule, None, columns + LENGTH - BLOCK)
            before = memory.select(slice(0, LENGTH - BLOCK))
            part, _ = denoiser.logits_with(ids[:, -BLOCK:], places[:, -BLOCK:], None, before, columns)
        except REFUSALS:
            continue
        for logits in (whole, part):
            fill_(logits, policy.never, 0.0)  # -inf everywhere
        if examiner.measured("behind stored keys:", gap(whole, part), little(policy)):
            return calling
    return replace(own, stores=None)
