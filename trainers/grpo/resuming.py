"""What lets a stopped GRPO run go on bit by bit: the order of its prompts and the rollout buffer."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from trainers.faults.tolerant import FaultTolerant
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
            self.inner.generator.manual_seed(self.inner.seed)
            for _ in range(self.epochs_seen()):
                torch.randperm(self.inner.num_samples, generator=self.inner.generator)
        return iter(self.inner)


class ResumableGRPOTrainer(FaultTolerant, GRPOTrainer):
    """TRL's trainer, resumed bit by bit, also in the middle of an inner iteration."""

    position_name = "_step"
    _tokens: int  # completion tokens of the last rollout

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        return ResumableSampler(super()._get_train_sampler(dataset), lambda: int(self.state.epoch or 0))

    def _rollout_state_path(self, checkpoint: str | Path) -> Path:
        return Path(checkpoint) / f"rollout_state_{self.accelerator.process_index}.pt"

    def _save_rng_state(self, output_dir: str) -> None:
        """Beside the random state: the rollout buffer, in case the run stops between two iterations over it."""
        super()._save_rng_state(output_dir)
        state = {"step": self._step, "tokens": self._tokens, "buffered_inputs": self._buffered_inputs}
        torch.save(state, self._rollout_state_path(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the random state and the rollout buffer."""
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        path = self._rollout_state_path(checkpoint)
        if not path.is_file():
            raise ConfigError(f"checkpoint {checkpoint} has no {path.name}: it is incomplete, or of another trainer")
        # by type: torch cannot load to "cpu:0", as accelerate calls the device of several CPU processes
        state = torch.load(path, map_location=self.accelerator.device.type, weights_only=True)
        self._step, self._tokens, self._buffered_inputs = state["step"], state["tokens"], state["buffered_inputs"]
