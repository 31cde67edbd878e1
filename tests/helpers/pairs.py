"""Every sampler with every rule that it can go with, as options of a generator."""

from core.sampling import SAMPLERS, SELECTIONS, SOLVERS

EOS = 2
# Every pair that behaves in its own way: a sampler and its selection rule or solver, where it asks for one.
PAIRS = [
    (kind, rule)
    for kind, asks in SAMPLERS.items()
    for rule in (SELECTIONS if asks.selects else SOLVERS if asks.solves else ("",))
]


def chosen(kind: str, rule: str) -> dict[str, str]:
    """The options of a pair."""
    key = "solver" if SAMPLERS[kind].solves else "selection"
    return {"sampler": kind, key: rule} if rule else {"sampler": kind}
