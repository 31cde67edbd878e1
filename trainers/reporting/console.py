"""What a run says in the terminal while it goes: one short line a log entry, above the progress bar."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import datasets
from torch.distributed.elastic.multiprocessing.errors import record
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from trainers.faults.stopping import RunError, RunStopped
from trainers.settings.trainer import ConfigError

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


def quiet_libraries() -> None:
    """No loading bars, and no deprecation notes that are addressed to TRL's authors."""
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")


class OptionParser(argparse.ArgumentParser):
    """For the few options that belong to one script and to no config; bad ones are a ConfigError."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)

    def parse_measurement(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """Adds what every script that measures has, --split and --json; what is left is the config's."""
        self.add_argument("--split", default="test", choices=("train", "validation", "test"))
        self.add_argument("--json", type=Path, default=None, help="also write the numbers to this file")
        options, rest = self.parse_known_args(argv)
        if options.json:  # fails now rather than after the work
            options.json.parent.mkdir(parents=True, exist_ok=True)
        return options, rest


def main_or_one_line(main: Any) -> None:
    """Run a script's main. One line on stderr and no traceback: a configuration error, exit status 2; what ended a run
    before its time, status 1; a run that was asked to stop, status 75.

    Of several ranks the failing ones speak, each with its number; torchrun's last words are those of the first one to
    fail, a traceback included if that is what it was.
    """
    quiet_libraries()
    rank = int(os.environ.get("RANK", "0"))

    def say(kind: str, error: BaseException | str) -> None:
        print(
            f"{kind}{f' (rank {rank})' if rank else ''}: {' '.join(str(error).split())}", file=sys.stderr, flush=True
        )

    try:
        record(main)(sys.argv[1:])
    except ConfigError as error:
        say("error", error)
        raise SystemExit(2) from None
    except RunError as error:
        if rank == 0 or not error.shared:
            say("error", error)
        raise SystemExit(1) from None
    except RunStopped as stopped:
        if rank == 0:
            say("stopped", stopped.message)
        raise
