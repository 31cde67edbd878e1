"""What is found: rows of tables, and the table that holds them.

A row knows its numbers, its headings and its cells as text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from trainers.evaluating.statistics import Interval
from trainers.studies.measurements.steps import FULL


@dataclass(frozen=True)
class ExposureRow:
    """The loss at clean states and at those that the model walked to over k timesteps, at equal masks.

    Attributes:
        offset: k; a state closer to T than that walked less, one at T not at all.
        walked: mean number of timesteps walked.
        clean, rolled_out: mean weighted loss at either kind of state, nats a completion.
        bias: their difference.
        clean_per_token, rolled_out_per_token, bias_per_token: the same in nats a token of the canvas.
        accuracy: share of the model's own visible tokens that are the data's; None where there are none.
    """

    HEADINGS: ClassVar = ("k", "walked", "clean", "rolled out", "bias", "a token", "right")

    offset: int
    walked: float
    clean: float
    rolled_out: float
    bias: Interval
    clean_per_token: float
    rolled_out_per_token: float
    bias_per_token: Interval
    accuracy: float | None

    def cells(self) -> list[str]:
        """The row as text, one a heading."""
        return [
            str(self.offset),
            f"{self.walked:.2f}",
            f"{self.clean:.2f} ({self.clean_per_token:.3f})",
            f"{self.rolled_out:.2f} ({self.rolled_out_per_token:.3f})",
            f"{self.bias.value:+.2f} [{self.bias.low:+.2f}, {self.bias.high:+.2f}]",
            f"{self.bias_per_token.value:+.3f}",
            "-" if self.accuracy is None else f"{self.accuracy:.1%}",
        ]


@dataclass(frozen=True)
class Decoding:
    """What one way to sample brings and costs.

    Attributes:
        accuracy: share of completions that are right by the strict parser.
        forwards: mean evaluations of the model a completion.
        seconds: wall time of one pass over the problems.
    """

    accuracy: Interval
    forwards: float
    seconds: float


@dataclass(frozen=True)
class StepsRow:
    """Accuracy and cost at a number of steps, sampled at the experiment's temperature and greedy."""

    HEADINGS: ClassVar = ("steps", "sampled", "forwards", "greedy", "forwards", "seconds")

    label: str  # as asked for, such as "full"
    steps: int
    sampled: Decoding
    greedy: Decoding

    def cells(self) -> list[str]:
        """The row as text, one a heading."""
        modes = (self.sampled, self.greedy)
        numbers = [text for mode in modes for text in (str(mode.accuracy), f"{mode.forwards:.2f}")]
        steps = f"{self.steps} ({self.label})" if self.label == FULL else self.label
        return [steps, *numbers, f"{sum(mode.seconds for mode in modes):.1f}"]


@dataclass(frozen=True)
class SolverRow:
    """Accuracy and cost of a solver at a number of steps, sampled at the experiment's temperature."""

    HEADINGS: ClassVar = ("forwards", "solver", "steps", "sampled", "seconds")

    solver: str
    steps: int
    sampled: Decoding

    def cells(self) -> list[str]:
        """The row as text, one a heading."""
        found = self.sampled
        return [f"{found.forwards:.2f}", self.solver, str(self.steps), str(found.accuracy), f"{found.seconds:.1f}"]


@dataclass(frozen=True)
class Measurement:
    """A table: rows of one kind, and notes on what the title does not say, or on why there are none."""

    title: str
    rows: Sequence[ExposureRow | StepsRow | SolverRow]
    notes: Sequence[str] = ()

    def describe(self) -> dict[str, Any]:
        """All numbers; JSON-serialisable."""
        return {"title": self.title, "rows": [asdict(row) for row in self.rows], "notes": list(self.notes)}
