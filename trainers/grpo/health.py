"""Whether a GRPO run is healthy: the range of each number that says so, and what to change.

`HEALTHY` holds the ranges, keyed as the trainer logs the metrics; `DiagnosticsCallback` compares them with the log and
names the options to change.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.grpo.diagnostics import GRADIENT_SIGNAL, RATIO_ESS, ROLLOUT_MISMATCH
from trainers.grpo.flat_reward import NO_SIGNAL, FlatReward
from trainers.settings.grpo import ImprovedDiffuGRPOConfig

WINDOW = 5  # rows of the log that are averaged before a range is judged

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Range:
    """Where a metric of a healthy run lies, ends included, and what to change where it does not.

    Attributes:
        low, high: ends in the metric's unit; None is open.
        advice: what it means and which options to change, as `section.key` between backticks.
    """

    low: float | None
    high: float | None
    advice: str

    def __contains__(self, value: float) -> bool:
        # NaN lies nowhere
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        return low <= value <= high

    def __str__(self) -> str:
        ends = {"at least": self.low, "at most": self.high}
        return " and ".join(f"{word} {end:g}" for word, end in ends.items() if end is not None) or "anything"


HEALTHY = {
    # Noise alone averages 0. Runs of 1000 steps that learned had .05 to .09 at first and .015 on average, but means
    # over 5 rows down to -.015, at 16 and 32 sequences an update: a gradient that turns against itself stands out.
    GRADIENT_SIGNAL: Range(
        -0.05,
        None,
        "successive gradients point against each other; lower `training.learning_rate` or `training.num_iterations`, "
        "or raise `training.per_device_train_batch_size`, `training.gradient_accumulation_steps` or `loss.num_draws`",
    ),
    # Half the tokens carry the estimate: where particle filters resample (Liu & Chen 1995). Log ratios of standard
    # deviation .8 do that, four times the width of the usual clipping.
    RATIO_ESS: Range(
        0.5,
        None,
        "few tokens carry the update; lower `training.num_iterations`, `training.steps_per_generation` or "
        "`training.learning_rate`, or raise `loss.num_draws`",
    ),
    # Float32 replay differs by rounding, 1e-5. 0.05 moves the ratio by 5%, a quarter of the clipping range of 0.2.
    ROLLOUT_MISMATCH: Range(
        None,
        0.05,
        "the loss scores another law than the one that sampled; keep `training.disable_dropout` true, "
        "`model.lora_dropout` 0, and `model.dtype` float32 (`training.bf16` false)",
    ),
    # Such groups have advantage 0 (DAPO, 2503.14476): above 0.8 a rollout trains on less than a fifth of its cost.
    NO_SIGNAL: Range(
        None,
        0.8,
        "most groups have equal rewards and teach nothing; where all are solved make the task harder, where none is "
        "easier (`task.max_operations`, `task.max_number`), or raise `training.num_generations` or "
        "`generation.temperature`, or add a graded reward to `task.rewards`",
    ),
    # Nats a token, the entropy of the embedded policy's own tokens. Its successful runs stay below 0.2 (docs/run.png).
    "kl": Range(
        None,
        0.5,
        "the policy left its reference; raise `training.beta`, or lower `training.learning_rate` or "
        "`training.num_iterations`; with weights in its exponent (`loss.ratio` weighted) the KL itself explodes",
    ),
    # One token ten times likelier or rarer within a batch. Clipping leaves a large ratio in the loss where the
    # advantage is negative; training.delta does not (INTELLECT-2, 2505.07291).
    "ratio_log_max": Range(
        None,
        math.log(10),
        "a token's probability moved more than tenfold within one rollout; lower `training.learning_rate` "
        "or `training.num_iterations`, or bound the ratio with `training.delta`",
    ),
}


class DiagnosticsCallback(TrainerCallback):
    """Warns, in one line of the logger, when the mean of a metric over `WINDOW` rows of the log leaves its range.

    Once a metric, and again only after such a mean has been back in the range. A run whose first rollouts have no
    signal at all is told sooner (`FlatReward`). Nothing of it is in checkpoints: a resumed run starts with empty
    windows.

    Args:
        ranges: what is watched, by the name in the log; a metric that is not logged is not judged.
    """

    def __init__(self, ranges: Mapping[str, Range] = HEALTHY):
        self.ranges = ranges
        self._forget()

    def _forget(self) -> None:
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in self.ranges}
        self._warned: set[str] = set()
        self._first = FlatReward()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start with empty windows, and with no metric warned of."""
        self._forget()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put a row of the log into the windows, on the main process, and judge the mean of each that is full."""
        if not state.is_world_process_zero or logs is None:
            return
        flat = self._first.look(logs, args) if isinstance(args, ImprovedDiffuGRPOConfig) else None
        if flat is not None:
            self._warned.add(NO_SIGNAL)  # it says the same, and more
            _say("warning: step %d: %s", state.global_step, flat)
        for name, recent in self._recent.items():
            if name in logs and not (name == NO_SIGNAL and self._first.waiting):
                recent.append(math.nan if logs[name] is None else logs[name])  # transformers logs None for NaN
                if len(recent) == WINDOW:
                    self._judge(name, sum(recent) / WINDOW, state.global_step)

    def _judge(self, name: str, mean: float, step: int) -> None:
        healthy = self.ranges[name]
        if mean in healthy:
            self._warned.discard(name)
        elif name not in self._warned:
            self._warned.add(name)
            text = "warning: step %d: %s averages %.3g over the last %d rows of the log, healthy is %s: %s"
            _say(text, step, name, mean, WINDOW, healthy, healthy.advice)


def _say(text: str, *values: object) -> None:
    """A warning above the progress bar, as the lines of the log are."""
    with logging_redirect_tqdm():
        logger.warning(text, *values)
