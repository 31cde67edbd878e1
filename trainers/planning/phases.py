"""The phases of an optimiser step on one accelerator: arithmetic, and the least time for it.

A forward counts once. Its backward takes the gradients of activations (once more), and those of weights (once more)
where they are trained; attention, which has no weights, takes two. The head's logits are made again in the backward
(`core.denoisers.projection`). Streamed states run the forward again, and so does checkpointing, but for the last
matrix of each
layer: torch stops when it has again what the backward asks for (with an adapter, whose own comes behind, it does not).
"""

from collections import Counter
from dataclasses import dataclass

from trainers.benchmarking.counters import Calls
from trainers.benchmarking.roofline import Costs, Peaks
from trainers.benchmarking.steps import FULL
from trainers.planning.memory import FLOAT, HALF, Setup
from trainers.planning.models import Model
from trainers.planning.work import Work

ROLLOUT, OLD, REFERENCE, FORWARD, BACKWARD, AGAIN, UPDATE = (
    "rollout", "old policy", "reference", "loss, forward", "backward", "forward again", "optimiser",
)  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """A part of a step.

    Attributes:
        name: one of the above.
        flop: arithmetic.
        head: of it the vocabulary head's.
        seconds: the least time on the machine.
    """

    name: str
    flop: float
    head: float
    seconds: float


@dataclass(frozen=True)
class Often:
    """How often something is done in an optimiser step.

    Attributes:
        rollout: rollouts; a share of one where it serves several steps.
        old, reference: scorings of a micro-batch by the old policy, and by the reference.
        loss: micro-batches.
    """

    rollout: float
    old: float
    reference: float
    loss: float


class Meter:
    """What calls cost on a machine.

    Args:
        model, setup: what is trained, and how.
        peaks: of the machine.
        casts: whether every forward makes a copy of all weights in another type (autocast of float32 weights).
    """

    def __init__(self, model: Model, setup: Setup, peaks: Peaks, casts: bool):
        self.model, self.setup, self.peaks = model, setup, peaks
        self.costs: Costs = model.costs(setup.compute)
        self.cast_seconds = casts * (FLOAT + HALF) * model.weights / peaks.bandwidth
        self.adapter = 0 if setup.trained == FULL else 2 * model.adapter  # flop a position

    def forward(self, name: str, calls: Calls, times: float, adapted: bool = True) -> Phase:
        """``times`` runs of these calls."""
        return self._phase(name, calls, times, body=1.0, head=1.0, adapter=float(adapted), casts=True)

    def backward(self, calls: Calls, times: float) -> Phase:
        """Of a forward with these calls."""
        whole = self.costs.flop(_body(calls))
        if self.setup.trained == FULL:
            return self._phase(BACKWARD, calls, times, body=2.0, head=3.0, adapter=0.0, casts=False)
        body = (whole + self.costs.attention_share(calls)) / whole
        return self._phase(BACKWARD, calls, times, body=body, head=2.0, adapter=2.0, casts=False)

    def again(self, calls: Calls, times: float, layers: bool) -> Phase:
        """The forward once more inside the backward: of the layers alone, where they are checkpointed, or of all."""
        body = 1.0
        if layers and self.setup.trained == FULL and not self.costs.experts:
            rows, columns = self.costs.feed_forward[-1]
            last = 2 * rows * columns * self.costs.layers * calls.positions
            body -= last / self.costs.flop(_body(calls))
        return self._phase(AGAIN, calls, times, body=body, head=float(not layers), adapter=1.0, casts=True)

    def update(self, trained: float, itemsize: int) -> Phase:
        """AdamW reads a gradient, and reads and writes a weight and two moments."""
        return Phase(UPDATE, 0.0, 0.0, 7 * itemsize * trained / self.peaks.bandwidth)

    def _phase(
        self, name: str, calls: Calls, times: float, body: float, head: float, adapter: float, casts: bool
    ) -> Phase:
        only_head = Calls(head=calls.head)
        adapters = adapter * self.adapter * calls.positions
        heads = head * self.costs.flop(only_head)
        seconds = body * self.costs.attainable(_body(calls), self.peaks)
        seconds += head * self.costs.attainable(only_head, self.peaks) + adapters / self.peaks.flops
        seconds += casts * calls.forwards * self.cast_seconds
        flop = body * self.costs.flop(_body(calls)) + heads + adapters
        return Phase(name, times * flop, times * heads, times * seconds)


def phases_of(meter: Meter, work: Work, often: Often, streamed: bool, trained: float, itemsize: int) -> list[Phase]:
    """All phases of a step; those that the run does not have are left out.

    Args:
        meter: what calls cost.
        work: what is asked.
        often: how often.
        streamed: whether states are scored in groups, whose forwards are made again.
        trained: weights that this process updates.
        itemsize: bytes of each.
    """
    phases = []
    if often.rollout:
        phases.append(meter.forward(ROLLOUT, work.rollout, often.rollout))
    if often.old:
        phases.append(meter.forward(OLD, work.scored, often.old))
    if often.reference:
        phases.append(meter.forward(REFERENCE, work.scored, often.reference, adapted=False))
    phases += [meter.forward(FORWARD, work.scored, often.loss), meter.backward(work.scored, often.loss)]
    if meter.setup.checkpointed:
        phases.append(meter.again(work.scored, often.loss, layers=True))
    if streamed:
        phases.append(meter.again(work.scored, often.loss, layers=False))
    return [*phases, meter.update(trained, itemsize)]


def _body(calls: Calls) -> Calls:
    """The same without the head."""
    return Calls(calls.body, Counter(), calls.last_feed_forward)
