"""One checkpoint by its own code and as transformers' class (`model.code`): the same rollout, by turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from trainers.benchmarking.contenders import OURS, Contender, contender
from trainers.benchmarking.peers import RolloutConfig
from trainers.benchmarking.rollouts import same_text
from trainers.benchmarking.roofline import seconds
from trainers.benchmarking.tables import Spread, share
from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.settings.model import ModelArguments

COMPARED = ("remote", "native")  # values of `model.code`; the first is what the other is compared with


@dataclass(frozen=True)
class CodeRow:
    """One side's row.

    Attributes:
        code: a name of `COMPARED`.
        model: the class that was run.
        seconds: of each repeat.
        speed: times as fast as the first side, repeat by repeat.
        same_text: share of sequences with the first side's text.
    """

    code: str
    model: str
    seconds: list[float]
    speed: Spread
    same_text: float

    HEADINGS: ClassVar[tuple[str, ...]] = ("code", "class", "seconds", "x remote", "same text")

    def cells(self) -> list[str]:
        """The row as text under `HEADINGS`."""
        return [self.code, self.model, str(Spread.of(self.seconds)), str(self.speed), share(self.same_text)]

    def describe(self) -> dict[str, Any]:
        """The row for results.json."""
        return vars(self) | {"speed": vars(self.speed)}


def both_ways(path: str, dtype: str, device: torch.device, block_length: int) -> list[Policy]:
    """The checkpoint as each of `COMPARED` has it.

    Raises:
        ConfigError: it cannot be loaded so.
    """
    policies = []
    for code in COMPARED:
        told = ModelArguments(path, code=code, trust_remote_code=code == "remote", dtype=dtype)
        policy = load_policy(told, block_length=block_length)
        cast(torch.nn.Module, policy.model).to(device).eval()
        policies.append(policy)
    return policies


def compare_codes(
    policies: Sequence[Policy], prompt_ids: Tensor, config: RolloutConfig, repeats: int
) -> list[CodeRow]:
    """Run each once untimed, for its text and to warm up, then ``repeats`` times by turns.

    Args:
        policies: of `both_ways`.
        prompt_ids: (B, P), on the models' device.
        config: what they are asked for.
        repeats: timed runs of each.
    """
    sides: list[Contender] = [contender(OURS, policy, config) for policy in policies]
    texts = [side.run(prompt_ids) for side in sides]
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, times in zip(sides, taken, strict=True):
            times.append(seconds(lambda side=side: side.run(prompt_ids), prompt_ids.device))
    return [
        CodeRow(
            code,
            type(policy.model).__name__,
            times,
            Spread.of([base / own for base, own in zip(taken[0], times, strict=True)]),
            same_text(texts[0], ids, config.eos_id),
        )
        for code, policy, times, ids in zip(COMPARED, policies, taken, texts, strict=True)
    ]
