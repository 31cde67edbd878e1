"""How many tokens of a block stay masked at each timestep, where counts say so and not chance: `COUNTS`.

A block of b tokens walks down levels 1 = m_0 >= m_1 >= ... >= m_n = 0 of the mask probability.

*schedule*: round(b m) tokens are masked.

*dream*: Dream's own loop (Ye et al. 2025, 2508.15487) reveals int(n (1 - s / t)) of n masked tokens in a step from
level t to level s, and all that are left in the last of its T steps. Its levels are the linear schedule's with
alpha_min = 0 and alpha_max = 1 - 1e-3. Rounding down delays it: the last step reveals several tokens.

A block that lies on the canvas in part counts as a whole one whose other tokens are revealed already: it is done
earlier. So do SDAR's and LLaDA2's own loops (2510.06303, 2512.15745) with the block in
which a prompt ends: so many tokens a step until no mask is left.
"""

from collections.abc import Callable
from itertools import pairwise

from core.names import look_up


def by_schedule(levels: list[float], length: int) -> list[int]:
    """round(b m) masked tokens at each level m."""
    return [round(length * level) for level in levels]


def by_dream(levels: list[float], length: int) -> list[int]:
    """b tokens at first, then int(n (1 - s / t)) fewer at each level; none at the last two, timestep 0 and clean."""
    left = [length]
    for t, s in pairwise(levels[:-2]):
        left.append(left[-1] - int(left[-1] * (1 - s / t)))
    return [*left, 0, 0]


# (mask probabilities from 1 to 0 along a block's timesteps, b) -> masked tokens at each
COUNTS: dict[str, Callable[[list[float], int], list[int]]] = {"schedule": by_schedule, "dream": by_dream}


def counts_named(name: str, sampler: str) -> Callable[[list[float], int], list[int]]:
    """A rule of `COUNTS`.

    Raises:
        ValueError: unknown name, or a rule that the sampler does not ask.
    """
    counts = look_up("generation.counts", name, COUNTS)
    if name != "schedule" and sampler != "count_matched":
        raise ValueError(f"generation.counts={name!r} needs generation.sampler='count_matched', got {sampler!r}")
    return counts
