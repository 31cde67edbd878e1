"""What a run says in the terminal while it goes: a few lines a log entry, above the progress bar, which a pipe or a
file does not get."""

import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from trainers.faults.endings import RunError
from trainers.reporting.history import Row, is_number, nelbo_error, reward_means
from trainers.rewarding.log import STRICT

# key in the log -> (label, format); those that a run does not have are left out. The rewards by name follow "reward".
SHOWN = {
    "reward": ("reward", "{:.3f}"),
    STRICT: ("strict accuracy", "{:.3f}"),
    "frac_reward_zero_std": ("no signal", "{:.0%}"),
    "completions/mean_length": ("length", "{:.1f}"),
    "rewards/margins": ("margin", "{:.3f}"),
    "rewards/accuracies": ("ranked right", "{:.2f}"),
    "nelbo": ("nelbo", "{:.2f}"),
    "cross_entropy": ("cross-entropy", "{:.3f}"),
    "scheduled_sampling/exposure_bias": ("exposure bias", "{:.2f}"),
    "kl": ("kl", "{:.4f}"),
    "ratio_log_std": ("ratio std", "{:.4f}"),
    "entropy": ("entropy", "{:.3f}"),
    "loss": ("loss", "{:.4f}"),
    "grad_norm": ("grad", "{:.2f}"),
    "learning_rate": ("lr", "{:.1e}"),
    "step_time": ("s/step", "{:.2f}"),
}
VALIDATION = "eval_"  # prefix of what an evaluation during training logs
LEAST_WIDTH, WIDTH, INDENT = 40, 80, 10  # columns of a line at least, where nobody says, and of its beginning
QUIET_SECONDS = 20.0  # between two lines of progress where there is no bar


def log_line(row: Row, step: str, left: str = "") -> str:
    """One log entry for people, folded at the terminal's width between its values; empty where nothing is known.

    Args:
        row: as TRL logs it.
        step: where the run stands, in front.
        left: the time that is left, at the end of a step of training.
    """
    validation = any(key.startswith(VALIDATION) for key in row)
    if validation:
        row, left = {key.removeprefix(VALIDATION): value for key, value in row.items()}, ""
    parts = list(_parts(row))
    if not parts:
        return ""
    # a value stays beside its label: spaces inside a part do not break
    text = "  ".join(part.replace(" ", "\0") for part in [*parts, *filter(None, [left])])
    width = max(LEAST_WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns - 1)
    start = f"{'validation' if validation else step:<{max(INDENT, len(step))}}  "
    wrapper = textwrap.TextWrapper(width, start, " " * (INDENT + 2), break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(text).replace("\0", " ")


def _parts(row: Row) -> Iterator[str]:
    """Every known value with its label."""
    rewards = reward_means([row])
    for key, (label, form) in SHOWN.items():
        # where correctness is what is rewarded the two are one number
        twice = key == STRICT and any(row[reward] == row.get(key) for reward in rewards)
        if is_number(row.get(key)) and not twice:
            error = nelbo_error(row) if key == "nelbo" else None
            yield f"{label} {form.format(row[key])}" + (f" ± {error:.2f}" if error is not None else "")
        if key == "reward":
            yield from (f"{name} {row[reward]:.3f}" for reward, name in rewards.items())


class LineProgress(ProgressCallback):
    """transformers' progress bar where there is a terminal, with readable lines in place of the printed dictionary."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar, on the main process and in a terminal alone."""
        self.current_step, self.started, self.first_step = 0, time.perf_counter(), state.global_step
        if sys.stderr.isatty():
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Move the bar of an evaluation, in a terminal alone."""
        if sys.stderr.isatty():
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the known values of a log entry above the bar, on the main process."""
        left = self._left(state) if self.training_bar is None else ""
        text = log_line(logs or {}, f"{state.global_step}/{state.max_steps}", left)
        if not state.is_world_process_zero or not text:
            return
        if self.training_bar is None:
            print(text, flush=True)
            return
        self.training_bar.write(text)
        if getattr(args, "log_completions", False):  # TRL's table follows, where the bar is now
            self.training_bar.clear()

    def _left(self, state: TrainerState) -> str:
        """What the bar would say: the time that is left."""
        done, left = state.global_step - self.first_step, state.max_steps - state.global_step
        seconds = (time.perf_counter() - self.started) / max(done, 1) * left
        return f"{tqdm.format_interval(seconds)} left" if done and left else ""

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)


@contextmanager
def counting(label: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar for work before or after training; in a pipe or a file, a line every so often.

    Args:
        label: what is counted.
        quiet: show nothing: not the main process.

    Yields:
        What is to be told, as ``say(done, of)``.
    """
    shown = None if quiet or not sys.stderr.isatty() else tqdm(desc=label, dynamic_ncols=True, leave=False)
    said = started = time.perf_counter()

    def say(done: int, of: int) -> None:
        nonlocal said
        now = time.perf_counter()
        if shown is not None:
            shown.total = of
            shown.update(done - shown.n)
        elif not quiet and now - said > QUIET_SECONDS and done < of:
            said = now
            left = tqdm.format_interval((now - started) / done * (of - done))
            print(f"{label}: {done} of {of}, {left} left", flush=True)

    try:
        yield say
    finally:
        if shown is not None:
            shown.close()


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
