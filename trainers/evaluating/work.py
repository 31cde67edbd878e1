"""The work of an evaluation, cut into batches, shared out over processes, done once each.

Batches are the same on any number of processes and in a resumed run, which does an unfinished batch again as a whole:
the outcomes are then equal to the last bit, rounding included. The processes finish their batches in rounds; after
each the first one writes what is new to the journal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainers.distributed.processes import Processes
from trainers.evaluating.evaluation import GREEDY, SAMPLED, Answer, Evaluator
from trainers.evaluating.journal import Journal, Place
from trainers.models.policy import Policy
from trainers.settings.options import ConfigError

DECODINGS = (SAMPLED, GREEDY)

Answers = dict[Place, Answer]


@dataclass(frozen=True)
class Unit:
    """One batch: some problems in one row of the sweep, one decoding, one repetition."""

    row: int
    decoding: str
    repetition: int
    problems: Sequence[int]

    def places(self) -> list[Place]:
        """Which answers it gives."""
        return [Place(self.row, self.decoding, self.repetition, problem) for problem in self.problems]


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Args:
        evaluators: one a row of the sweep, on the same problems.
        policy: the model.
        decodings: some of `DECODINGS`.
        repeats: sampled completions a problem; greedy ones are all the same, so there is one.
    """

    evaluators: Sequence[Evaluator]
    policy: Policy
    decodings: Sequence[str]
    repeats: int

    def check(self) -> None:
        """Raise ConfigError for a row that cannot be sampled with this model, or scored."""
        for evaluator in self.evaluators:
            if evaluator.task.verify is None and evaluator.judge is None:
                raise ConfigError(
                    "task.reward: nothing scores the texts: no reward is named, and the data has no answers that its "
                    "own completions are equal to"
                )
            for decoding in self.decodings:
                try:
                    evaluator.sampler(self.policy, temperature(evaluator, decoding))
                except ValueError as error:
                    raise ConfigError(str(error)) from error

    def repetitions(self, decoding: str) -> int:
        """Completions a problem."""
        return self.repeats if decoding == SAMPLED else 1

    def units(self) -> list[Unit]:
        """All batches, in order."""
        batches = self.evaluators[0].batches(self.policy)
        return [
            Unit(row, decoding, repetition, problems)
            for row in range(len(self.evaluators))
            for decoding in self.decodings
            for repetition in range(self.repetitions(decoding))
            for problems in batches
        ]

    def do(
        self, journal: Journal | None, processes: Processes, say: Callable[[int, int], None] | None = None
    ) -> Answers:
        """Every answer, those of the journal included, on every process.

        Args:
            journal: where finished problems are kept; None: nowhere.
            processes: that share the work.
            say: called as ``say(done, all)``, numbers of batches, after every round.
        """
        found: Answers = processes.from_first(journal.open) if journal else {}
        units = self.units()
        left = [unit for unit in units if not found.keys() >= set(unit.places())]
        done = len(units) - len(left)
        for start in range(0, len(left), processes.count):
            turn = left[start : start + processes.count]
            own = self._answers(turn[processes.rank]) if processes.rank < len(turn) else {}
            gathered = {place: answer for part in processes.gather(own) for place, answer in part.items()}
            new = {place: answer for place, answer in gathered.items() if place not in found}
            if journal and processes.first:
                journal.append(new.items())
            found |= new
            done += len(turn)
            if say:
                say(done, len(units))
        return found

    def _answers(self, unit: Unit) -> Answers:
        evaluator = self.evaluators[unit.row]
        warmth = temperature(evaluator, unit.decoding)
        answers = evaluator.answer(self.policy, warmth, unit.problems, unit.repetition)
        return dict(zip(unit.places(), answers, strict=True))


def temperature(evaluator: Evaluator, decoding: str) -> float:
    """The experiment's own, or 0."""
    return evaluator.args.temperature if decoding == SAMPLED else 0.0
