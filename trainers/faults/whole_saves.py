"""What a trainer saves is there whole or not at all, and a full disk holds it rather than losing the step."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from trainers.faults.behind import TrainerBehind
from trainers.faults.disk_space import (
    bytes_of,
    checkpoint_bytes,
    disk_full,
    lack_of_room,
    make_room,
    model_bytes,
    needed_instead,
)
from trainers.faults.endings import RunError
from trainers.faults.manifest import write_manifest
from trainers.faults.publishing import PARTIAL, publish, recover, staged
from trainers.settings.options import ConfigError

ATTEMPTS = 3  # at one checkpoint: a disk that is full at each is filled by somebody else


@contextmanager
def names_in_memory(model: nn.Module) -> Iterator[None]:
    """Meanwhile weights are written under the names that they have in memory, which is how transformers' trainer reads
    a checkpoint back. It would write the experts of a mixture apart, and then miss the whole that they are kept as."""
    kept = vars(model).get("_weight_conversions")
    vars(model)["_weight_conversions"] = []
    try:
        yield
    finally:
        del vars(model)["_weight_conversions"]
        if kept is not None:
            vars(model)["_weight_conversions"] = kept


class WholeSaves(TrainerBehind):
    """Mixin in front of a transformers trainer.

    Overridden: `_save_checkpoint` (all of it is written beside, given a manifest, synced, renamed, and only then are
    old checkpoints deleted), `_issue_warnings_after_load` (weights that a resumed run lacks end it), `_get_output_dir`
    (where beside is), `_push_from_checkpoint` (what is pushed is in its place), `save_model` (the same for the final
    model), `train` (cleans up after a kill, and asks for room first).
    Ranks share the directory, or each node has one and `save_on_each_node` is set.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._staging = False
        self._last_bytes = 0  # of the last checkpoint
        super().__init__(*args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Clean up after a killed save, refuse a run that the disk has no room for, then train."""
        if self.args.should_save:
            recover(Path(self.args.output_dir))
        if (wrong := self._first(lack_of_room(self) if self.args.should_save else None)) is not None:
            raise ConfigError(wrong)
        return super().train(*args, **kwargs)

    def _first(self, message: str | None) -> str | None:
        """What any rank found, told to all."""
        return next((told for told in gather_object([message]) if told is not None), None)

    def _get_output_dir(self, trial: Any) -> str:
        run = super()._get_output_dir(trial)
        return str(Path(run) / PARTIAL) if self._staging else run

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._staging:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        final = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        needed = max(checkpoint_bytes(self), self._last_bytes)
        for attempt in range(1, ATTEMPTS + 1):
            self._wait_for_room(run, needed, self.args.save_total_limit)
            try:
                self._write_checkpoint(model, trial, final)
                break
            except (OSError, RuntimeError, SafetensorError) as error:
                instead = needed_instead(error, run / PARTIAL, needed)
                rmtree(run / PARTIAL, ignore_errors=True)
                if instead is None:
                    raise
                needed = instead
                if attempt == ATTEMPTS or self.accelerator.num_processes > 1:  # the others are elsewhere by now
                    raise RunError(disk_full(run, needed)) from error
        if self.args.should_save:
            rotate_checkpoints(str(run), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        tied = getattr(self.model, "all_tied_weights_keys", None) or {}  # stored once, under another name
        lost = sorted({*load_result.missing_keys} - {*tied}) or sorted(load_result.unexpected_keys)
        if lost:
            raise RunError(
                f"the checkpoint to resume from does not have the weights of this model: {lost[0]} and "
                f"{len(lost) - 1} more {'are missing' if load_result.missing_keys else 'are not known'}"
            )
        super()._issue_warnings_after_load(load_result)

    def _wait_for_room(self, directory: Path, needed: int, limit: int | None = None) -> None:
        wrong = (
            make_room(directory, needed, limit, self.state.best_model_checkpoint) if self.args.should_save else None
        )
        if (wrong := self._first(wrong)) is not None:
            raise RunError(wrong, shared=True)

    def _write_checkpoint(self, model: nn.Module, trial: Any, final: Path) -> None:
        beside = staged(final)
        self._staging = True
        try:
            with names_in_memory(self.accelerator.unwrap_model(self.model)):
                super()._save_checkpoint(model, trial)
        finally:
            self._staging = False
        if self.state.best_model_checkpoint == str(beside):
            self.state.best_model_checkpoint = str(final)
            if self.args.should_save:
                self.state.save_to_json(str(beside / "trainer_state.json"))
        self.accelerator.wait_for_everyone()  # every rank has its files in it
        if self.args.should_save:
            write_manifest(beside)
            self._last_bytes = bytes_of(beside)
            publish(final)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the final model beside its place, then rename it; the trainer's own directory is written as it is."""
        if _internal_call or output_dir is None or Path(output_dir) == Path(self.args.output_dir):
            super().save_model(output_dir, _internal_call)
            return
        final = Path(output_dir)
        self._wait_for_room(final.parent, model_bytes(self))
        super().save_model(str(staged(final)), _internal_call)
        self.accelerator.wait_for_everyone()
        if self.args.should_save and staged(final).is_dir():  # FSDP with sharded states has nothing to say here
            publish(final)
        self.accelerator.wait_for_everyone()
