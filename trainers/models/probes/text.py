"""Shift and mask token, by texts that the model knows: each is scored as it is claimed, and as it might be instead."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from trainers.models.policy import Policy
from trainers.models.probes.looking import Examiner
from trainers.models.probes.samples import SAMPLES, Sample

CLEARLY = 4.0  # standard errors by which another reading must be better
NATS = 0.5  # a token: and at least by so much
FEWEST = 8  # hidden tokens below which a text says nothing

Encoded = list[tuple[Tensor, Tensor]]  # of each text its token ids (1, N), and which of them are hidden


def check_text(policy: Policy, examiner: Examiner) -> None:
    """Refuse a shift or a mask token under which text that the model knows is predicted worse than under another."""
    longest = getattr(policy.model.config, "max_position_embeddings", None) or math.inf
    for sample in SAMPLES:
        encoded = list(_encode(policy, sample, examiner))
        fits = max(ids.size(1) for ids, _ in encoded) <= longest
        if not fits or sum(int(hidden.sum()) for _, hidden in encoded) < FEWEST:
            continue
        claimed = _scores(policy, encoded, policy.mask_id)
        _check_shift(policy, encoded, claimed, examiner)
        _check_mask(policy, encoded, claimed, examiner)


def _check_shift(policy: Policy, encoded: Encoded, claimed: Tensor, examiner: Examiner) -> None:
    """The same tokens, read as if the logits stood one place further, or one less; ``claimed``: scores (H,)."""
    other = _scores(replace(policy, logit_shift=not policy.logit_shift), encoded, policy.mask_id)
    examiner.measured("another shift, nats gained:", _gained(policy, other, claimed), NATS)
    if _clearly_better(policy, other, claimed):
        there, here = ("at", "before") if policy.logit_shift else ("before", "at")
        examiner.refuse(
            f"model.logit_shift={str(policy.logit_shift).lower()}, but the logits {there} a hidden token predict "
            f"it better: {float(other.mean()):.2f} nats, against {float(claimed.mean()):.2f} by those {here} it; "
            f"set model.logit_shift={str(not policy.logit_shift).lower()}"
        )


def _check_mask(policy: Policy, encoded: Encoded, claimed: Tensor, examiner: Examiner) -> None:
    """The same tokens, hidden by other tokens that may be the mask; ``claimed``: scores (H,)."""
    for token in _candidates(policy):
        scores = _scores(policy, encoded, token)
        examiner.measured(f"mask {_name(policy, token)}, nats gained:", _gained(policy, scores, claimed), NATS)
        if _clearly_better(policy, scores, claimed):
            examiner.refuse(
                f"mask token {_name(policy, policy.mask_id)}: hidden tokens are predicted better behind "
                f"{_name(policy, token)}: {float(scores.mean()):.2f} nats, against {float(claimed.mean()):.2f}"
            )


def _encode(policy: Policy, sample: Sample, examiner: Examiner) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids (1, N) of each text, and which of them are hidden."""
    for given, completed in sample.texts:
        start = len(policy.tokenizer(given)["input_ids"])
        ids = torch.tensor(policy.tokenizer([given + completed])["input_ids"], device=policy.model.device)
        if bool((ids == policy.mask_id).any()):
            examiner.refuse(
                f"mask token {_name(policy, policy.mask_id)}: plain text contains it, so it cannot hide anything"
            )
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        hidden[:, start + 1 :: sample.every] = True
        yield ids, hidden


def _scores(policy: Policy, encoded: Encoded, mask_id: int) -> Tensor:
    """Log-probabilities of the hidden tokens when ``mask_id`` hides them, nats, (H,)."""
    denoiser = replace(policy, calling=replace(policy.calling, head=False)).denoiser()
    parts = []
    for ids, hidden in encoded:
        logits = denoiser.logits(ids.masked_fill(hidden, mask_id), None, hidden)
        parts.append(logits.log_softmax(dim=1).gather(1, ids[hidden].unsqueeze(1)).squeeze(1))
    return torch.cat(parts).double()


def _clearly_better(policy: Policy, scores: Tensor, claimed: Tensor) -> bool:
    """Better than what is claimed, by a model that knows the text: better than guessing, too."""
    return all(_clearly_above(scores - less) for less in (claimed, _guessed(policy, scores)))


def _gained(policy: Policy, scores: Tensor, claimed: Tensor) -> float:
    """Nats a token over what is claimed or over guessing, whichever is better."""
    return min(float((scores - less).mean()) for less in (claimed, _guessed(policy, scores)))


def _guessed(policy: Policy, scores: Tensor) -> Tensor:
    """Every token as likely as any other."""
    return torch.full_like(scores, -math.log(len(policy.tokenizer)))


def _clearly_above(gain: Tensor) -> bool:
    error = float(gain.std()) / len(gain) ** 0.5
    return float(gain.mean()) > max(NATS, CLEARLY * error)


def _candidates(policy: Policy) -> list[int]:
    """Other tokens that may be the mask: what the config names, and bracketed ones that are called so."""
    vocabulary = policy.tokenizer.get_vocab().items()
    named = {token for text, token in vocabulary if "mask" in text.lower() and text[0] + text[-1] in ("<>", "[]")}
    configured = getattr(policy.model.config, "mask_token_id", None)
    others = named if configured is None else named | {configured}
    return sorted(others - {policy.mask_id})


def _name(policy: Policy, token: int) -> str:
    return f"{policy.tokenizer.convert_ids_to_tokens(token)!r} (id {token})"
