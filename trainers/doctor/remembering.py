"""Texts that are written with what the model remembers between evaluations, against those without."""

from collections.abc import Iterator

from core.alpha_schedule import AlphaSchedule
from core.sampling.caches import STALE
from core.trajectory import Trajectory
from trainers.doctor.findings import FAULT, NOT_RUN, OK, Finding
from trainers.doctor.patient import Patient
from trainers.models.policy import Policy


def caches(patient: Patient) -> Iterator[Finding]:
    """The same greedy texts with and without a cache, where it changes nothing."""
    policy = patient.policy
    reason = no_cache(policy)
    if reason:
        yield Finding("cache", NOT_RUN, reason)
        return
    schedule = AlphaSchedule("linear", patient.canvas, 0.0, 1.0)
    plain = patient.write(patient.prompts(), patient.canvas, schedule, cache="off")
    # a stale cache that is made anew at every evaluation is exact too
    names = ("exact",) if policy.block_length is not None else tuple(STALE)
    for name in names:
        refresh = {"cache_refresh": 1} if name in STALE else {}
        cached = patient.write(patient.prompts(), patient.canvas, schedule, cache=name, **refresh)
        yield Finding(f"cache {name}", *agreement(plain, cached))


def no_cache(policy: Policy) -> str:
    """Why no keys and values of the model can be kept; empty: they can."""
    calling = policy.calling
    for hinders, reason in (
        (calling.padding == "none", "it ignores masks, so that no part of a text can be run by itself"),
        (calling.stores is None, "nothing makes it store keys and values"),
        (policy.logit_shift, "the first logits of a span would stand outside of it"),
        (calling.counts_padding, "its positions are absolute, and a cache counts padding"),
    ):
        if hinders:
            return f"no keys and values can be kept: {reason}"
    return ""


def agreement(one: Trajectory, other: Trajectory) -> tuple[str, str]:
    """Outcome, and how many rows have the same tokens."""
    equal = int((one.ids == other.ids).all(dim=1).sum())
    outcome = OK if equal == len(one.ids) else FAULT
    return outcome, f"{equal} of {len(one.ids)} greedy texts equal to those without"
