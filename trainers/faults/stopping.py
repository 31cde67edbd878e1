"""How a run ends before its last step: on a signal, with a checkpoint, or on an error that is one line.

transformers has `enable_jit_checkpoint` for SIGTERM. It is not used here: its ranks do not agree on the step; it also
saves between the gradient and the update, from which no run resumes bit by bit; it waits three seconds of a short
grace period; and the script goes on to what follows training and exits with status 0.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.faults.behind import TrainerBehind
from trainers.faults.endings import RunStopped

# SLURM's --signal=USR1@seconds warns before the time limit
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SAME = 1.0  # seconds within which a second SIGINT is the first one, come by way of a launcher too
SAVED = "{name}: saved step {step} in {place}; to go on: the same command with --resume_from_checkpoint true"


class StopOnSignal(TrainerCallback):
    """Saves at the end of the optimiser step in which any rank got a signal, on all ranks, and ends training there.

    An evaluation that is due at that step is left out: the time that is left is for saving.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.received = 0  # number of the first signal that this process got
        self.agreed = 0  # what all ranks stopped for
        self._at = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hold off `SIGNALS` until a step ends. One that came after the last step is delivered at the end."""
        self.received = self.agreed = 0
        if threading.current_thread() is not threading.main_thread():  # Python lets no other one handle signals
            yield
            return
        process = os.getpid()
        before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

        def receive(number: int, frame: FrameType | None) -> None:
            again = number == signal.SIGINT == self.received and time.monotonic() - self._at > SAME
            if again or os.getpid() != process:  # a child that was forked meanwhile is not for us to keep alive
                signal.signal(number, before[number])
                signal.raise_signal(number)
            elif not self.received:
                self.received, self._at = number, time.monotonic()
                self._say(number)

        for number in SIGNALS:
            signal.signal(number, receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.received and not self.agreed:
            signal.raise_signal(self.received)

    def _say(self, number: int) -> None:
        """By write(2), as print may be what the signal interrupted."""
        if self.accelerator.is_main_process:
            name = signal.Signals(number).name
            at_once = " (again: at once)" if number == signal.SIGINT else ""
            os.write(2, f"\n{name}: stopping after this step{at_once}\n".encode())

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Agree over all ranks on whether any got a signal; if so, save, skip evaluation and stop here."""
        mine = torch.tensor([self.received], device=self.accelerator.device)
        self.agreed = int(cast(torch.Tensor, self.accelerator.gather(mine)).max())
        if self.agreed:
            control.should_save, control.should_evaluate, control.should_training_stop = True, False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the end of an epoch from saving or evaluating again after the step that stopped the run."""
        if self.agreed:  # saved already
            control.should_save = control.should_evaluate = False


class StopsOnSignals(TrainerBehind):
    """Mixin in front of a transformers trainer: a signal ends `train` with a checkpoint and `RunStopped`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._stop = StopOnSignal(self.accelerator)
        self.add_callback(self._stop)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train while signals are held off; raise RunStopped after the checkpoint that one of them led to."""
        with self._stop.listening():
            result = super().train(*args, **kwargs)
        if self._stop.agreed:
            name = signal.Signals(self._stop.agreed).name
            raise RunStopped(SAVED.format(name=name, step=self.state.global_step, place=self.args.output_dir))
        return result
