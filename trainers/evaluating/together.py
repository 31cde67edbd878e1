"""Held-out accuracy by all processes of a run: each answers its part of the problems."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate.utils import gather_object
from torch import nn

from trainers.distributed.sharding import ShardedTrainer
from trainers.evaluating.evaluation import GREEDY, SAMPLED, Answer, Evaluation, Evaluator
from trainers.models.policy import Policy
from trainers.rollouts import balanced

Say = Callable[[int, int], None]


def evaluate_together(
    trainer: ShardedTrainer, evaluator: Evaluator, say: Say = lambda done, of: None
) -> dict[str, Evaluation]:
    """`Evaluator.both` of the model in training, on every process; a collective.

    A completion's noise is that of its problem, so the outcome is that of one process. Nobody waits for the main
    process to answer all alone, for longer than processes wait for one another. ``say`` is told after every batch how
    many completions of this process's own are done.
    """
    with trainer.whole_weights() as model, _on(trainer.accelerator.device, model):
        policy = replace(trainer.policy, model=model)
        prompts = policy.encode(list(evaluator.problems["prompt"]))
        dealt = balanced(prompts, trainer.share.processes, evaluator.args.max_completion_length)
        own, clusters = sorted(dealt[trainer.share.rank]), evaluator.problems["cluster"]
        decodings = {SAMPLED: evaluator.args.temperature, GREEDY: 0.0}
        count = tally(say, len(own) * len(decodings))
        return {
            name: Evaluation.of(_answers(evaluator, policy, temperature, own, count), clusters)
            for name, temperature in decodings.items()
        }


def tally(say: Say, of: int) -> Callable[[int], None]:
    """What to call with the number of completions of each batch, for ``say`` to be told how many of all are done."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        say(done, of)

    return count


@contextmanager
def _on(device: torch.device, model: nn.Module) -> Iterator[None]:
    """Meanwhile a model that is to be sharded, and waits for that on the CPU, is where it can be run."""
    before = next(model.parameters()).device
    moved = before.type != device.type
    if moved:
        model.to(device)
    yield
    if moved:
        model.to(before)


def _answers(
    evaluator: Evaluator, policy: Policy, temperature: float, own: Sequence[int], count: Callable[[int], None]
) -> list[Answer]:
    """The answers of all processes, in the order of the problems."""
    answers = evaluator.answer(policy, temperature, own, say=count) if own else []
    return sorted(gather_object(answers), key=lambda answer: answer.problem)
