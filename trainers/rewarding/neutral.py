"""What a reward that failed counts as, so that it pulls neither way.

It counts as the mean of the same reward over the rest of its group, which leaves its part of the advantage 0 and the
others' as they would be without it.
"""

import torch
from torch import Tensor


def neutral(rewards: Tensor, failed: Tensor, num_generations: int) -> Tensor:
    """Rewards whose failed entries pull neither way when TRL sums them and subtracts the group's mean.

    With f the value put in for a failed entry, the entry's part of the advantage is f minus the group's mean, f among
    it; that is 0 if, and only if, f is the mean over the rest. TRL leaves rows without any value out of the group, and
    counts NaN as 0 in the others; so does this mean. A group in which all have failed takes the batch's mean, a
    constant, which cancels in the group.

    Args:
        rewards: by completion and reward function, NaN for none and where it failed, (B, N).
        failed: which are unknown, boolean, (B, N).
        num_generations: G completions of a prompt, consecutive rows.

    Returns:
        The rewards, (B, N); a row that has no value at all is left as it is, for TRL to leave out.
    """
    counted = ~rewards.isnan().all(dim=1, keepdim=True) & ~failed
    # in float64, so that the mean of equal numbers is that number
    values = rewards.double().nan_to_num().masked_fill(~counted, 0.0)
    of_group = (len(rewards) // num_generations, num_generations, -1)
    number = counted.view(of_group).sum(dim=1, keepdim=True)
    group_mean = values.view(of_group).sum(dim=1, keepdim=True) / number.clamp(min=1)
    batch_mean = values.sum(dim=0) / counted.sum(dim=0).clamp(min=1)
    fill = torch.where(number > 0, group_mean, batch_mean).expand(of_group[:2] + group_mean.shape[2:])
    scorable = ~rewards.isnan().all(dim=1, keepdim=True)
    return torch.where(failed & scorable, fill.reshape(rewards.shape).to(rewards.dtype), rewards)
