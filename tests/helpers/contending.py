"""Contenders of a benchmark on a machine of known peaks."""

import torch

from trainers.benchmarking.contenders import contender
from trainers.benchmarking.rollouts import compare_rollouts
from trainers.benchmarking.roofline import PeakMeter, Peaks

PROMPT = 5  # tokens


class KnownPeaks(PeakMeter):
    """A machine of 1 GFLOP/s and 1 GB/s."""

    def measure(self):
        self.best = Peaks(1e9, 1e9)


def compare(policy, names, prompts, config, **overrides):
    contenders = [contender(name, policy, config) if isinstance(name, str) else name for name in names]
    settings = {"peaks": KnownPeaks(torch.device("cpu"), torch.float32), "repeats": 1, "memory": False} | overrides
    return compare_rollouts(policy, contenders, prompts, config, **settings)


def first_token(model, prompt_ids, config):
    """A peer from outside: repeats the prompt's first token, prompt in front as LLaDA's own returns it."""
    with torch.no_grad():
        model(input_ids=prompt_ids)
    return torch.cat([prompt_ids, prompt_ids[:, :1].expand(-1, config.canvas_length)], dim=1)
