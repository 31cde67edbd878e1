"""Held-out accuracy of a policy: completions of a split, judged strictly and leniently, with 95% intervals.

The noise of a completion is that of its problem's place in the split, of the repetition and of the temperature: it is
the same whichever other problems are asked, in what batches and on how many processes. What is left of these is the
rounding of the model in batches of another shape.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from transformers import BatchEncoding

from core.alpha_schedule import AlphaSchedule
from core.masking_strategy import MaskingStrategy
from core.sampling import draw_keys
from trainers.distributed.randomness import generator_at
from trainers.evaluating.playback import Playback, playbacks
from trainers.evaluating.statistics import Interval, change_of_mean, clustered_mean, gain, mean_of
from trainers.models.policy import Policy
from trainers.rollouts import by_length, compiled_body, padded, roll_out
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.objects import build_generator
from trainers.tasks.messages import Prompt
from trainers.tasks.verdicts import PARSERS, REWARD

SAMPLED = "sampled"
GREEDY = "greedy"

Rewards = Mapping[str, float | None]
Judge = Callable[..., Mapping[str, Sequence[float | None]]]


@dataclass(frozen=True)
class Answer:
    """What was written for one problem.

    Attributes:
        problem: its place in the split.
        strict, lenient: whether it is right under either parser; None where only rewards judge.
        completion: the text.
        forwards: denoiser evaluations that it took part in.
        seconds: its equal share of the wall time of what was written together.
        rewards: values of the user's rewards by name; None: it does not apply, or failed.
        playback: how it was written, where the evaluator was asked to keep that.
    """

    problem: int
    strict: bool | None
    lenient: bool | None
    completion: str
    forwards: int
    seconds: float
    rewards: Rewards = field(default_factory=dict)
    playback: Playback | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        """What is measured of it."""
        return measures_of(self.strict is not None, self.rewards)

    def value(self, measure: str) -> float | None:
        """Of a measure: 1 or 0 of a verdict, the value of a reward."""
        return self.rewards[measure.removeprefix(REWARD)] if measure not in PARSERS else float(getattr(self, measure))


@dataclass(frozen=True)
class Evaluation:
    """Outcomes of one pass over a split, one entry a problem.

    Attributes:
        strict, lenient: whether the completion gives the right answer under either parser; empty where only rewards
            judge.
        clusters: problems of one cluster share their numbers and template; intervals do not count them as independent.
        completions: the texts.
        forwards: mean denoiser evaluations a completion.
        seconds: wall time of the denoising.
        rewards: values of the user's rewards, by name.
        playbacks: problem -> how its completion was written; of those that the evaluator was asked to keep.
    """

    strict: list[bool]
    lenient: list[bool]
    clusters: list[str]
    completions: list[str]
    forwards: float
    seconds: float
    rewards: Mapping[str, list[float | None]] = field(default_factory=dict)
    playbacks: dict[int, Playback] = field(default_factory=dict)

    @classmethod
    def of(cls, answers: Sequence[Answer], clusters: Sequence[str]) -> "Evaluation":
        """From one answer a problem, in the order of the problems."""
        return cls(
            strict=[answer.strict for answer in answers if answer.strict is not None],
            lenient=[answer.lenient for answer in answers if answer.lenient is not None],
            clusters=list(clusters),
            completions=[answer.completion for answer in answers],
            forwards=sum(answer.forwards for answer in answers) / len(answers),
            seconds=sum(answer.seconds for answer in answers),
            rewards={name: [answer.rewards[name] for answer in answers] for name in answers[0].rewards},
            playbacks={answer.problem: answer.playback for answer in answers if answer.playback is not None},
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """What was measured: shares of right answers, means of rewards."""
        return measures_of(bool(self.strict), self.rewards)

    def score(self, measure: str) -> Interval:
        """A share or a mean, with its 95% interval."""
        if measure in PARSERS:
            return self.accuracy(measure)
        return mean_of(self.rewards[measure.removeprefix(REWARD)], self.clusters)

    def change_from(self, before: "Evaluation", measure: str) -> Interval:
        """Difference of a measure to an earlier evaluation of the same problems."""
        if measure in PARSERS:
            return self.gain_over(before, measure)
        old, new = (e.rewards[measure.removeprefix(REWARD)] for e in (before, self))
        return change_of_mean(old, new, self.clusters)

    def accuracy(self, parser: str) -> Interval:
        """Share of right answers under ``strict`` or ``lenient``, with its 95% interval."""
        return clustered_mean([float(ok) for ok in getattr(self, parser)], self.clusters)

    def gain_over(self, before: "Evaluation", parser: str) -> Interval:
        """Difference in accuracy to an earlier evaluation of the same problems."""
        old, new = ([float(ok) for ok in getattr(e, parser)] for e in (before, self))
        return gain(old, new, self.clusters)


@dataclass(frozen=True)
class Evaluator:
    """Runs a policy over problems on the sampler of its experiment.

    Args:
        args: generation options.
        schedule, masking: those of the experiment.
        task: has `verify`, (completion, answer) -> verdict, or None for it where only rewards judge.
        problems: rows with prompt, answer and cluster.
        seed: of the sampling noise; equal for every evaluation of a run.
        batch_size: prompts denoised at a time; it does not show in the results.
        judge: (prompts, completions, ids, columns) -> values of rewards by name; None: no rewards are measured.
        played: of the first so many problems it is kept how the completion was written, step by step.
    """

    args: DiffusionArguments
    schedule: AlphaSchedule
    masking: MaskingStrategy
    task: Any
    problems: Dataset
    seed: int
    batch_size: int = 128
    judge: Judge | None = None
    played: int = 0

    def run(self, policy: Policy, temperature: float) -> Evaluation:
        """Denoise and judge every problem once; temperature 0 is greedy."""
        return Evaluation.of(self.answer(policy, temperature, range(len(self.problems))), self.problems["cluster"])

    def both(self, policy: Policy) -> dict[str, Evaluation]:
        """Sampled at the experiment's temperature, and greedy."""
        return {SAMPLED: self.run(policy, self.args.temperature), GREEDY: self.run(policy, 0.0)}

    def answer(
        self,
        policy: Policy,
        temperature: float,
        places: Sequence[int],
        repetition: int = 0,
        say: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Denoise and judge some problems once.

        Args:
            policy: the model; it is left in the mode that it was in.
            temperature: of the token distribution; 0 is greedy.
            places: of the problems in the split, none twice.
            repetition: 0, 1, ...: each has noise of its own.
            say: called after every batch with its number of completions.

        Returns:
            One answer a place, in that order.
        """
        model, tokenizer = policy.model, policy.tokenizer
        asked = self.problems.select(places)
        was_training = model.training
        model.eval()
        started = time.perf_counter()
        prompts = policy.encode(list(asked["prompt"]))
        keys = self.keys(temperature, repetition)[list(places)]
        with compiled_body(model, self.args.compile_rollouts):
            sampler, own = self.sampler(policy, temperature), (policy.pad_id, self.batch_size, model.device)
            trajectory = roll_out(sampler, prompts, keys, *own, say=say)
        completions = tokenizer.batch_decode(trajectory.completions(), skip_special_tokens=True)
        model.train(was_training)
        seconds = (time.perf_counter() - started) / len(places)
        kept = [row for row, place in enumerate(places) if place < self.played]
        played = dict(zip(kept, playbacks(tokenizer, trajectory, kept), strict=True))
        verdicts = self._verdicts(completions, asked)
        rewards = self._rewards(policy, asked, completions, trajectory.completions())
        return [
            Answer(place, *verdict, completion, forwards, seconds, values, played.get(row))
            for row, (place, verdict, completion, forwards, values) in enumerate(
                zip(places, verdicts, completions, trajectory.forwards.tolist(), rewards, strict=True)
            )
        ]

    def _verdicts(self, completions: Sequence[str], asked: Dataset) -> list[tuple[bool | None, bool | None]]:
        """Strict and lenient, one pair a completion."""
        if self.task.verify is None:
            return [(None, None)] * len(completions)
        verdicts = [self.task.verify(c, a) for c, a in zip(completions, asked["answer"], strict=True)]
        return [(verdict.strict, verdict.lenient) for verdict in verdicts]

    def _rewards(
        self, policy: Policy, asked: Dataset, completions: Sequence[str], ids: Sequence[Sequence[int]]
    ) -> list[Rewards]:
        """The values of all rewards, one mapping a completion."""
        if self.judge is None:
            return [{}] * len(completions)
        prompts = [policy.format.render(policy.tokenizer, prompt) for prompt in asked["prompt"]]
        columns = {name: list(asked[name]) for name in asked.column_names}
        values = self.judge(prompts, completions, ids, columns)
        return [{name: column[i] for name, column in values.items()} for i in range(len(completions))]

    def keys(self, temperature: float, repetition: int) -> torch.Tensor:
        """The noise of every problem, (problems,): that of the first n is the same in a split of n."""
        # the first repetition has the noise of the evaluations in a training run
        again = (repetition,) if repetition else ()
        noise = generator_at(self.seed, "evaluation", str(float(temperature)), *again)
        return draw_keys(len(self.problems), noise)

    def sampler(self, policy: Policy, temperature: float):
        """What completes the prompts.

        Raises:
            ValueError: options that do not fit together or to the model.
        """
        denoiser = policy.denoiser(compiled=self.args.compile_rollouts)
        return build_generator(self.args, denoiser, self.schedule, self.masking, policy.eos_ids, temperature)

    def batches(self, policy: Policy) -> list[list[int]]:
        """The places of all problems in batches of prompts of like length."""
        lengths = [len(ids) for ids in policy.encode(list(self.problems["prompt"]))]
        order = by_length(lengths, policy.denoiser().text_block)
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]


def encode_prompts(policy: Policy, prompts: Sequence[Prompt]) -> BatchEncoding:
    """Left-padded ids and attention mask of prompts in the policy's format, on the model's device."""
    ids, mask = padded(policy.encode(prompts), policy.pad_id, policy.model.device)
    return BatchEncoding({"input_ids": ids, "attention_mask": mask})


def summarise(evaluations: dict[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """Accuracies and mean rewards by name ("sampled strict", ...), as value / low / high."""
    return {
        f"{mode} {measure}": vars(evaluation.score(measure))
        for mode, evaluation in evaluations.items()
        for measure in evaluation.measures
    }


def measures_of(judged: bool, rewards: Iterable[str]) -> tuple[str, ...]:
    """Names of what is measured, from whether there are verdicts and from the names of rewards."""
    return (*(PARSERS if judged else ()), *(REWARD + name for name in rewards))
