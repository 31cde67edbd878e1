"""Bytes that each process sends in an optimiser step: what a ring cannot do without (Patarasuk and Yuan 2009).

Summing n vectors of s bytes takes 2 s (n - 1) / n a process, gathering or scattering one s (n - 1) / n. Latency and
contention come on top, so that the time is a lower bound.
"""

from dataclasses import dataclass

from trainers.benchmarking.steps import FULL
from trainers.planning.memory import FLOAT, Setup
from trainers.planning.models import Model
from trainers.settings.spreading import DDP, FSDP2, ONE, ZERO2, ZERO3


@dataclass(frozen=True)
class Passes:
    """How often the model is run whole in an optimiser step, which is how often sharded weights are gathered.

    Attributes:
        loss: forwards of the loss, each with its backward.
        scoring: forwards of old policy and reference.
        rollouts: rollouts, a share of one where it serves several steps.
    """

    loss: float
    scoring: float
    rollouts: float


def bytes_sent(model: Model, setup: Setup, passes: Passes, strategy: str, processes: int) -> dict[str, float]:
    """Bytes that each process sends, by purpose: gradients, weights, rollout."""
    if strategy == ONE or processes == 1:
        return {"gradients": 0.0, "weights": 0.0, "rollout": 0.0}
    share = (processes - 1) / processes
    full = setup.trained == FULL
    trained = model.weights if full else model.adapter
    own = setup.itemsize if full else FLOAT
    if strategy == DDP:
        return {"gradients": 2 * share * own * trained, "weights": 0.0, "rollout": 0.0}
    scattered = passes.loss * share * setup.compute * trained  # a shard has no room for whole sums between micro-steps
    if strategy == ZERO2:
        return {"gradients": scattered, "weights": share * setup.compute * trained, "rollout": 0.0}
    assert strategy in (ZERO3, FSDP2)
    gathered = share * setup.compute * model.weights
    forwards = 2 * passes.loss + passes.scoring
    return {"gradients": scattered, "weights": forwards * gathered, "rollout": passes.rollouts * gathered}
