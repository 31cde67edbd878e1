"""The JSON record of an evaluation, and its table.

format        1, of this layout
command       the command line
model         model.name_or_path
split         train, validation or test
problems      how many; independent_clusters: how many independent ones
interval      what every interval is: Wilson (every cluster is one problem) or clustered, see
              trainers.evaluating.statistics
data          sha256 over prompt, answer and cluster of the problems
weights       sha256 over the loaded weights
seed          of the sampling noise, which further depends on the problem's place, repetition and temperature alone
repeats       sampled completions a problem
config        deviations from defaults, itself a valid config file
environment   machine and versions
clusters      the cluster of each problem, numbered from 0
rows          one a combination of swept values:
    changes       the swept settings and their values
    settings      every setting that can show in the outcomes
    accuracy      "sampled strict", "sampled lenient", "greedy strict", ... -> value, low, high
    pass_at       the same names -> k -> value, low, high; sampled only, where asked for
    forwards      decoding -> denoiser evaluations a completion, mean
    seconds       decoding -> time of the denoising, summed over processes
    outcomes      decoding -> parser -> one text a repetition, one digit a problem: 1 is right; none where only
                  rewards judge
    rewards       decoding -> reward -> one list a repetition, one value a problem (null: none); the user's own rewards
                  alone, whose means stand in accuracy as "sampled reward NAME"
    completions   decoding -> one list a repetition, one text a problem; where asked for
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from trainers.commands import command_line
from trainers.evaluating.evaluation import SAMPLED, Answer
from trainers.evaluating.identity import settings
from trainers.evaluating.journal import Place
from trainers.evaluating.statistics import (
    Interval,
    clustered_mean,
    independent,
    mean_of,
    means_of,
    numbered,
    pass_at,
)
from trainers.evaluating.sweeps import Row
from trainers.evaluating.work import Answers, Work
from trainers.models.formats import BARE, PromptFormat
from trainers.saving.environment import environment
from trainers.saving.files import replace_file
from trainers.settings.options import ConfigError
from trainers.tasks.verdicts import is_reward

FORMAT = 1


@dataclass(frozen=True)
class Outcome:
    """Answers of one row of the sweep under one decoding.

    Attributes:
        decoding: one of `work.DECODINGS`.
        answers: one list a repetition, one answer a problem.
        clusters: of the problems.
    """

    decoding: str
    answers: Sequence[Sequence[Answer]]
    clusters: Sequence[str]

    def right(self, parser: str) -> list[int]:
        """How many repetitions solve each problem."""
        return [sum(getattr(answer, parser) for answer in column) for column in zip(*self.answers, strict=True)]

    @property
    def measures(self) -> tuple[str, ...]:
        """What was measured."""
        return self.answers[0][0].measures

    def score(self, measure: str) -> Interval:
        """Share of right answers, or mean reward: the mean over problems of the mean over repetitions."""
        if is_reward(measure):
            return mean_of(means_of(self.values(measure)), self.clusters)
        return clustered_mean([right / len(self.answers) for right in self.right(measure)], self.clusters)

    def values(self, measure: str) -> list[list[float | None]]:
        """One list a repetition, one value a problem."""
        return [[answer.value(measure) for answer in answers] for answers in self.answers]

    def pass_at(self, parser: str, k: int) -> Interval:
        """Chance that one of k samples is right, mean over problems."""
        n = len(self.answers)
        return clustered_mean([pass_at(k, right, n) for right in self.right(parser)], self.clusters)

    def digits(self, parser: str) -> list[str]:
        """One text a repetition, one digit a problem."""
        return ["".join(str(int(getattr(answer, parser))) for answer in answers) for answers in self.answers]

    def texts(self) -> list[list[str]]:
        """One list a repetition, one completion a problem."""
        return [[answer.completion for answer in answers] for answers in self.answers]

    @property
    def forwards(self) -> float:
        """Denoiser evaluations a completion."""
        return fmean(answer.forwards for answers in self.answers for answer in answers)

    @property
    def seconds(self) -> float:
        """Time of the denoising, over all repetitions and processes."""
        return sum(answer.seconds for answers in self.answers for answer in answers)


@dataclass(frozen=True)
class Found:
    """What an evaluation found.

    Args:
        rows: of the sweep.
        outcomes: for each of them, one outcome a decoding.
        pass_at: the numbers k.
        split: name of the split.
        form: the format that the policy was asked in.
    """

    rows: Sequence[Row]
    outcomes: Sequence[Sequence[Outcome]]
    pass_at: Sequence[int]
    split: str
    form: PromptFormat = BARE

    @classmethod
    def of(cls, rows: Sequence[Row], work: Work, answers: Answers, pass_at: Sequence[int], split: str) -> "Found":
        """From all answers of a work."""
        clusters = list(work.evaluators[0].problems["cluster"])

        def outcome(row: int, decoding: str) -> Outcome:
            times = range(work.repetitions(decoding))
            problems = range(len(clusters))
            found = [[answers[Place(row, decoding, time, problem)] for problem in problems] for time in times]
            return Outcome(decoding, found, clusters)

        outcomes = [[outcome(row, decoding) for decoding in work.decodings] for row in range(len(rows))]
        return cls(rows, outcomes, pass_at, split, work.policy.format)

    @property
    def clusters(self) -> Sequence[str]:
        """Of the problems."""
        return self.outcomes[0][0].clusters

    @property
    def interval(self) -> str:
        """What the intervals are."""
        return "Wilson" if independent(self.clusters) else "clustered"

    @property
    def measures(self) -> tuple[str, ...]:
        """What was measured."""
        return self.outcomes[0][0].measures

    @property
    def parsers(self) -> tuple[str, ...]:
        """The measures that are shares of right answers."""
        return tuple(measure for measure in self.measures if not is_reward(measure))

    def _interval_of(self, measure: str) -> str:
        return "" if is_reward(measure) else f"{self.interval} "

    def table(self) -> Table:
        """For the terminal: a line a row of the sweep and decoding."""
        name = self.rows[0].config.model.model_name_or_path
        table = Table(
            title=f"{name} on {len(self.clusters)} {self.split} problems "
            f"({len(set(self.clusters))} independent clusters)"
        )
        for setting in self.rows[0].changes:
            table.add_column(setting.removeprefix("generation."))
        headings = [f"{measure}, 95% {self._interval_of(measure)}interval" for measure in self.measures]
        headings += [f"pass@{k}, {' / '.join(self.parsers)}" for k in self.pass_at]
        for heading in ("decoding", *headings, "forwards", "seconds"):
            table.add_column(heading)
        for row, outcomes in zip(self.rows, self.outcomes, strict=True):
            for outcome in outcomes:
                table.add_row(*map(str, row.changes.values()), *self._cells(outcome))
        return table

    def _cells(self, outcome: Outcome) -> list[str]:
        sampled = outcome.decoding == SAMPLED
        return [
            outcome.decoding,
            *(str(outcome.score(measure)) for measure in self.measures),
            *("\n".join(str(outcome.pass_at(p, k)) for p in self.parsers) if sampled else "-" for k in self.pass_at),
            f"{outcome.forwards:.2f}",
            f"{outcome.seconds:.1f}",
        ]

    def describe(self, data: str, weights: str, texts: bool) -> dict[str, Any]:
        """The record of the module's docstring.

        Args:
            data, weights: their hashes.
            texts: whether completions are written down.
        """
        first, sampled = self.rows[0].config, [o for o in self.outcomes[0] if o.decoding == SAMPLED]
        return {
            "format": FORMAT,
            "command": command_line(),
            "model": first.model.model_name_or_path,
            "split": self.split,
            "problems": len(self.clusters),
            "independent_clusters": len(set(self.clusters)),
            "interval": self.interval,
            "data": data,
            "weights": weights,
            "seed": first.training.seed,
            "repeats": len(sampled[0].answers) if sampled else 1,
            "config": first.describe(),
            "environment": environment(),
            "clusters": " ".join(map(str, numbered(self.clusters))),
            "rows": [self._row(*pair, texts) for pair in zip(self.rows, self.outcomes, strict=True)],
        }

    def _row(self, row: Row, outcomes: Sequence[Outcome], texts: bool) -> dict[str, Any]:
        named = [(f"{o.decoding} {measure}", o, measure) for o in outcomes for measure in self.measures]
        described = {
            "changes": row.changes,
            "settings": settings(row.config, self.form),
            "accuracy": {name: vars(outcome.score(measure)) for name, outcome, measure in named},
            "pass_at": {
                name: {str(k): vars(outcome.pass_at(parser, k)) for k in self.pass_at}
                for name, outcome, parser in named
                if self.pass_at and outcome.decoding == SAMPLED and parser in self.parsers
            },
            "forwards": {outcome.decoding: outcome.forwards for outcome in outcomes},
            "seconds": {outcome.decoding: outcome.seconds for outcome in outcomes},
            "outcomes": {o.decoding: {parser: o.digits(parser) for parser in self.parsers} for o in outcomes},
        }
        rewards = [measure for measure in self.measures if is_reward(measure)]
        if rewards:
            described["rewards"] = {o.decoding: {measure: o.values(measure) for measure in rewards} for o in outcomes}
        if texts:
            described["completions"] = {o.decoding: o.texts() for o in outcomes}
        return described


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    replace_file(path, json.dumps(record, indent=2).encode())


def read_record(path: Path) -> dict[str, Any]:
    """The record of an evaluation.

    Raises:
        ConfigError: there is none of this layout.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: expected the JSON record of scripts/evaluate.py") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or "rows" not in record:
        raise ConfigError(f"{path}: expected a record of scripts/evaluate.py with format {FORMAT}")
    return record
