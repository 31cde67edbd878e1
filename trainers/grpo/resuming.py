"""What lets a stopped GRPO run go on bit by bit: the order of its prompts and the rollout buffer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler

from trainers.settings.options import ConfigError


class ResumableSampler(Sampler):
    """TRL's sampler, in the order of an unbroken run also after a resume.

    TRL shuffles every epoch with what the epochs before left of one generator, and a resumed run has a fresh one.
    """

    def __init__(self, inner: RepeatSampler, epochs_seen: Callable[[], int]):
        self.inner, self.epochs_seen = inner, epochs_seen

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[int]:
        if self.inner.shuffle:
            assert self.inner.seed is not None  # TRL hands on that of the run
            self.inner.generator.manual_seed(self.inner.seed)
            for _ in range(self.epochs_seen()):
                torch.randperm(self.inner.num_samples, generator=self.inner.generator)
        return iter(self.inner)


@dataclass(frozen=True)
class RolloutBuffer:
    """The rollout that a run is in the middle of.

    Attributes:
        step: micro-steps made so far.
        tokens: completion tokens of the rollout on this process.
        buffered_inputs: its micro-batches, as TRL keeps them.
    """

    step: int
    tokens: int
    buffered_inputs: list[dict[str, Any]] | None

    @staticmethod
    def path(checkpoint: str | Path, rank: int) -> Path:
        """Each process has its own."""
        return Path(checkpoint) / f"rollout_state_{rank}.pt"

    def save(self, checkpoint: str | Path, rank: int) -> None:
        """Write it into a checkpoint."""
        torch.save(dict(vars(self)), self.path(checkpoint, rank))

    @classmethod
    def load(cls, checkpoint: str | Path, rank: int, device: torch.device) -> "RolloutBuffer":
        """Read it out of a checkpoint.

        Raises:
            ConfigError: it is not there.
        """
        path = cls.path(checkpoint, rank)
        if not path.is_file():
            raise ConfigError(f"checkpoint {checkpoint} has no {path.name}: it is incomplete, or of another trainer")
        # by type: torch cannot load to "cpu:0", as accelerate calls the device of several CPU processes
        return cls(**torch.load(path, map_location=device.type, weights_only=True))
