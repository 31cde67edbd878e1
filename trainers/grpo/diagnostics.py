"""Whether a GRPO run is healthy: numbers that say when it goes wrong, the range of each, and what to change.

The functions are pure and cost no forward or backward. `HEALTHY` holds the ranges, keyed as the trainer logs the
metrics; `DiagnosticsCallback` compares them with the log and names the options to change.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainers.grpo.flat_reward import NO_SIGNAL, FlatReward
from trainers.settings.grpo import ImprovedDiffuGRPOConfig

DIAGNOSTICS = "diagnostics/"  # prefix of the keys
GRADIENT_SIGNAL = DIAGNOSTICS + "gradient_signal"
GRADIENT_NOISE_SCALE = DIAGNOSTICS + "gradient_noise_scale"  # sequences; depends on the task, so it has no range
RATIO_ESS = DIAGNOSTICS + "ratio_ess"
ROLLOUT_MISMATCH = DIAGNOSTICS + "rollout_mismatch"  # of exact replay only
LIKELIHOOD_GAP = DIAGNOSTICS + "likelihood_gap"  # the same where replay is not exact, so it has no range

WINDOW = 5  # rows of the log that are averaged before a range is judged

logger = logging.getLogger(__name__)


# ---- gradient -------------------------------------------------------------------------------------------------------


def gradient_signal(optimizer: Optimizer) -> float | None:
    """Share of the gradient's second moment that is signal, read from Adam's state.

    A gradient of mean G and independent noise of variance N has E[m^2] = G^2 + r N and E[v] = G^2 + N in Adam's
    bias-corrected moments (Kingma & Ba 2015, 1412.6980), where after n steps r = sum w^2 / (sum w)^2 over the weights
    w = b1^0 ... b1^(n-1), that is (1 - b1) / (1 + b1) * (1 + b1^n) / (1 - b1^n). Solved for G^2 / (G^2 + N), each
    summed over all parameters.

    It is an estimate for slowly varying gradients: m averages over about 1 / (1 - b1) steps and v over
    1 / (1 - b2), so a gradient norm that falls reads as less signal. Steps that share a rollout (num_iterations or
    steps_per_generation above 1) share its noise, which then reads as signal. The gradients are those that Adam saw:
    clipped, and of a sharded optimizer this rank's share.

    Args:
        optimizer: Adam or a relative of it, also behind accelerate's wrapper.

    Returns:
        The share: 0 in expectation for noise alone, 1 for a constant gradient. Not clipped, so that noise averages to
        0. None before the second step, with b1 = 0, or where the optimizer has no such moments or saw only zeros.
    """
    signal, total = 0.0, 0.0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if not {"step", "exp_avg", "exp_avg_sq"} <= state.keys():
                continue
            beta1, beta2 = (float(beta) for beta in group["betas"])
            steps = float(state["step"])
            if steps < 2 or beta1 == 0:  # m^2 = v: a single gradient cannot be told from its noise
                continue
            noise_left = (1 - beta1) / (1 + beta1) * (1 + beta1**steps) / (1 - beta1**steps)
            first = state["exp_avg"].float().square().sum().item() / (1 - beta1**steps) ** 2
            second = state["exp_avg_sq"].float().sum().item() / (1 - beta2**steps)
            signal += (first - noise_left * second) / (1 - noise_left)
            total += second
    return None if total == 0 else signal / total


def noise_scale(signal: float, batch_size: int) -> float:
    """Simple noise scale tr(Sigma) / |G|^2: the batch, in sequences, whose gradient is half signal.

    Args:
        signal: share of signal in the second moment of a gradient, as from `gradient_signal`.
        batch_size: sequences that this gradient was averaged over, on all ranks and accumulated micro-batches.

    Returns:
        batch_size * (1 - signal) / signal, at least 0; inf where there is no signal.

    Source: McCandlish et al. 2018, 1812.06162. Sequences of one group share their prompt and count as
    independent here.
    """
    return math.inf if signal <= 0 else max(0.0, batch_size * (1 - signal) / signal)


# ---- ratio and replay -----------------------------------------------------------------------------------------------


def effective_sample_size(log_ratio: Tensor, weight: Tensor | None = None) -> float:
    """Share of the samples that an importance-weighted mean effectively rests on.

    Args:
        log_ratio: log of the importance ratios r, nats, (N,).
        weight: what each sample stands for, w >= 0, (N,); None weighs all the same.

    Returns:
        (sum w r)^2 / (sum w * sum w r^2), in (0, 1]; 1.0 where no sample has weight.

    Raises:
        ValueError: shapes that differ, or a negative weight.

    Source: Kong, Liu & Wong 1994, divided by the weighted number of samples.
    """
    weight = torch.ones_like(log_ratio) if weight is None else weight
    if weight.shape != log_ratio.shape or bool((weight < 0).any()):
        raise ValueError(
            f"weight of shape {tuple(weight.shape)}, smallest {weight.min().item() if weight.numel() else None}: "
            f"expected {tuple(log_ratio.shape)}, the shape of log_ratio, and no value below 0"
        )
    log_ratio, weight = log_ratio[weight > 0].double(), weight[weight > 0].double()
    if log_ratio.numel() == 0:
        return 1.0
    ratio = (log_ratio - log_ratio.max()).exp()  # a common factor cancels
    return ((weight * ratio).sum().square() / (weight.sum() * (weight * ratio.square()).sum())).item()


def rollout_mismatch(logps: Tensor, commit_logps: Tensor, scored: Tensor) -> tuple[float, float]:
    """Mean and maximum absolute difference of replayed and recorded log-probabilities, nats a token.

    Args:
        logps: log-probabilities that the loss replays, with the weights of the rollout, (B, L).
        commit_logps: log-probabilities that the sampler recorded (`Trajectory.commit_logps`), (B, L).
        scored: tokens to compare, boolean, (B, L).

    Returns:
        Mean and maximum; both 0.0 where no token is scored.

    Raises:
        ValueError: shapes that differ.

    Source: the training-inference mismatch of Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training".
    """
    if not logps.shape == commit_logps.shape == scored.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (logps, commit_logps, scored))
        raise ValueError(f"logps, commit_logps and scored of shapes {shapes}: expected the same shape for all three")
    apart = (logps[scored].float() - commit_logps[scored].float()).abs()
    return (apart.mean().item(), apart.max().item()) if apart.numel() else (0.0, 0.0)


# ---- ranges ---------------------------------------------------------------------------------------------------------


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
            if name in logs:
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
