"""What a run says in the terminal while it goes: one short line a log entry, above the progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from trainers.faults.endings import RunError

# key in the log -> (label, format); those that a run does not have are left out
SHOWN = {
    "loss": ("loss", "{:.4f}"),
    "eval_loss": ("eval loss", "{:.4f}"),
    "reward": ("reward", "{:.3f}"),
    "rewards/correctness/mean": ("correct", "{:.3f}"),
    "rewards/margins": ("margin", "{:.3f}"),
    "rewards/accuracies": ("ranked right", "{:.2f}"),
    "nelbo": ("nelbo", "{:.2f}"),
    "nelbo_standard_error": ("±", "{:.2f}"),
    "cross_entropy": ("cross-entropy", "{:.3f}"),
    "scheduled_sampling/exposure_bias": ("exposure bias", "{:.2f}"),
    "kl": ("kl", "{:.4f}"),
    "ratio_log_std": ("ratio std", "{:.4f}"),
    "entropy": ("entropy", "{:.3f}"),
    "grad_norm": ("grad", "{:.2f}"),
    "step_time": ("s/step", "{:.2f}"),
}


class LineProgress(ProgressCallback):
    """transformers' progress bar, with one readable line in place of the printed dictionary."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the known values of a log entry as one line above the bar, on the main process."""
        parts = [f"{label} {form.format(logs[key])}" for key, (label, form) in SHOWN.items() if logs and key in logs]
        if state.is_world_process_zero and self.training_bar is not None and parts:
            self.training_bar.write(f"step {state.global_step:>5}  " + "  ".join(parts))


@contextmanager
def closing_progress(trainer: Any) -> Iterator[None]:
    """Around training: whatever ends it, the progress bar's line is closed, and the logs if that is one line."""
    try:
        yield
    except RunError:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
        raise
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, LineProgress) and callback.training_bar is not None:
                callback.training_bar.close()


def use_line_progress(trainer: Any) -> None:
    """Replace the printing callbacks of a trainer by `LineProgress`, unless no bar is wanted."""
    if trainer.args.disable_tqdm:
        return
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(LineProgress)
