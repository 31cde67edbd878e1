"""Numbers that say when a GRPO run goes wrong; `trainers.grpo.health` has their ranges, and what to change.

The functions are pure and cost no forward or backward.
"""

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

DIAGNOSTICS = "diagnostics/"  # prefix of the keys
GRADIENT_SIGNAL = DIAGNOSTICS + "gradient_signal"
GRADIENT_NOISE_SCALE = DIAGNOSTICS + "gradient_noise_scale"  # sequences; depends on the task, so it has no range
RATIO_ESS = DIAGNOSTICS + "ratio_ess"
ROLLOUT_MISMATCH = DIAGNOSTICS + "rollout_mismatch"  # of exact replay only
LIKELIHOOD_GAP = DIAGNOSTICS + "likelihood_gap"  # the same where replay is not exact, so it has no range


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
