"""Held-out accuracy of a policy: completions of a split, judged strictly and leniently, with 95% intervals."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from datasets import Dataset

from core.alpha_schedule import AlphaSchedule
from core.masking_strategy import MaskingStrategy
from core.noise import draw_keys
from trainers.config import DiffusionArguments
from trainers.models import Policy
from trainers.objects import build_generator
from trainers.randomness import generator_at
from trainers.rollouts import compiled_body, roll_out
from trainers.statistics import Interval, clustered_mean, paired_difference

SAMPLED, GREEDY = "sampled", "greedy"


@dataclass(frozen=True)
class Evaluation:
    """Outcomes of one pass over a split, one entry a problem.

    Attributes:
        strict, lenient: whether the completion gives the right answer under either parser.
        clusters: problems of one cluster share their numbers and template; intervals do not count them as independent.
        completions: the texts.
        forwards: mean denoiser evaluations a completion.
        seconds: wall time of the denoising.
    """

    strict: list[bool]
    lenient: list[bool]
    clusters: list[str]
    completions: list[str]
    forwards: float
    seconds: float

    def accuracy(self, parser: str) -> Interval:
        """Share of right answers under ``strict`` or ``lenient``, with its 95% interval."""
        return clustered_mean([float(ok) for ok in getattr(self, parser)], self.clusters)

    def gain_over(self, before: "Evaluation", parser: str) -> Interval:
        """Difference in accuracy to an earlier evaluation of the same problems."""
        old, new = ([float(ok) for ok in getattr(e, parser)] for e in (before, self))
        return paired_difference(old, new, self.clusters)


@dataclass(frozen=True)
class Evaluator:
    """Runs a policy over problems on the sampler of its experiment.

    Args:
        args: generation options.
        schedule, masking: those of the experiment.
        task: module of `trainers.tasks`.
        problems: rows with prompt, answer and cluster.
        seed: of the sampling noise; equal for every evaluation of a run.
        batch_size: prompts denoised at a time; it does not show in the results.
    """

    args: DiffusionArguments
    schedule: AlphaSchedule
    masking: MaskingStrategy
    task: ModuleType
    problems: Dataset
    seed: int
    batch_size: int = 128

    def run(self, policy: Policy, temperature: float) -> Evaluation:
        """Denoise and judge every problem once; temperature 0 is greedy."""
        model = policy.model
        was_training = model.training
        model.eval()
        sampler = build_generator(
            self.args,
            policy.denoiser(compiled=self.args.compile_rollouts),
            self.schedule,
            self.masking,
            policy.tokenizer.eos_token_id,
            temperature,
        )
        started = time.perf_counter()
        keys = draw_keys(len(self.problems), generator_at(self.seed, "evaluation", str(temperature)))
        prompts = policy.tokenizer(list(self.problems["prompt"]))["input_ids"]
        pad_id = policy.tokenizer.pad_token_id
        with compiled_body(model, self.args.compile_rollouts):
            trajectory = roll_out(sampler, prompts, keys, pad_id, self.batch_size, model.device)
        completions = policy.tokenizer.batch_decode(trajectory.completions(), skip_special_tokens=True)
        model.train(was_training)
        verdicts = [self.task.verify(c, a) for c, a in zip(completions, self.problems["answer"], strict=True)]
        return Evaluation(
            strict=[v.strict for v in verdicts],
            lenient=[v.lenient for v in verdicts],
            clusters=list(self.problems["cluster"]),
            completions=completions,
            forwards=trajectory.forwards.float().mean().item(),
            seconds=time.perf_counter() - started,
        )

    def both(self, policy: Policy) -> dict[str, Evaluation]:
        """Sampled at the experiment's temperature, and greedy."""
        return {SAMPLED: self.run(policy, self.args.temperature), GREEDY: self.run(policy, 0.0)}


def encode_prompts(policy: Policy, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Left-padded ids and attention mask on the model's device."""
    return policy.tokenizer(list(prompts), padding=True, return_tensors="pt").to(policy.model.device)


def summarise(evaluations: dict[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """Accuracies by name ("sampled strict", ...), as value / low / high."""
    return {
        f"{mode} {parser}": vars(evaluation.accuracy(parser))
        for mode, evaluation in evaluations.items()
        for parser in ("strict", "lenient")
    }
