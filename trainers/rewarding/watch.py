"""What watches the rewards of a run while it goes on."""

import logging
import math
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.rewarding.hacking import BLOCKS, PARTS, accuracy_change, trends_of
from trainers.rewarding.log import RewardLog

ERRORS = 3.0  # standard errors: more than at the end of a run, as every look may raise a false alarm
FIRST_LOOK = PARTS * BLOCKS  # rows of the log
GROWTH = 1.25  # of the log between two looks

logger = logging.getLogger(__name__)


class RewardLogCallback(TrainerCallback):
    """Starts the log of a run's rewards, or goes on with it."""

    def __init__(self, log: RewardLog):
        self.log = log

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start `rewards.json` anew at step 0, or go on with it in a resumed run; the main process alone."""
        if state.is_world_process_zero:
            self.log.begin(resumed=state.global_step > 0)


class RewardHackingCallback(TrainerCallback):
    """Warns during the run, in one line of the logger, once for every reward that is flagged.

    It looks whenever the log has grown by a quarter, and as each look may raise a false alarm it wants
    `ERRORS` standard errors. What it warned of is in no checkpoint: a resumed run may warn again.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._next = FIRST_LOOK
        self._warned: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what an earlier call of `train` was warned of."""
        self._forget()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look at the trends if the log has grown enough, and warn of each reward that is newly flagged."""
        if not state.is_world_process_zero or len(state.log_history) < self._next:
            return
        self._next = math.ceil(len(state.log_history) * GROWTH)
        hacked = {trend.name: trend for trend in trends_of(state.log_history, ERRORS) if trend.hacked}
        accuracy = accuracy_change(state.log_history)
        for name in hacked.keys() - self._warned:
            self._warned.add(name)
            change = hacked[name].change
            assert accuracy is not None  # without it nothing is flagged
            with logging_redirect_tqdm():  # above the progress bar
                logger.warning(
                    "warning: step %d: %s rose from %.3g to %.3g while strict accuracy fell from %.3g to %.3g: reward "
                    "hacking; read some completions (`training.log_completions`), change `task.rewards` or "
                    "`training.reward_weights`, raise `training.beta`, or go back to a checkpoint before it",
                    state.global_step,
                    "the total reward" if name == "reward" else f"reward {name!r}",
                    change.start,
                    change.end,
                    accuracy.start,
                    accuracy.end,
                )
