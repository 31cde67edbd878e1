"""How many states one forward of the loss may hold, from a budget of memory: measured on the model, not estimated.

A scoring step (forward and backward, streamed, so that the gradients of states before are held) is run on one and on
two states at a time of the largest size that the run can have, with every token hidden. From the two peaks follow what
a state costs and what a step costs whatever it holds. The number that fits is then run as well, as the peak may move
to another place of the step when states are added.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from core.denoisers import ModelDenoiser, UnpaddedDenoiser
from core.scoring import Draws, Likelihood
from trainers.benchmarking.memory import peak_memory
from trainers.distributed.sharding import share_of
from trainers.models.policy import Policy
from trainers.settings.options import refusal, require

GIB = 2**30


class MemoryBudget:
    """Applies `choose_states` to a trainer once, when its first step is about to be made: only then does the model
    have its autocast and its gradient checkpointing.

    Args:
        args: the trainer's options; without loss.memory_budget_gib there is nothing to choose.
        likelihood: is told what was chosen.
        policy: how the model is called.
        accelerator: the processes, which all have to choose alike.
    """

    def __init__(self, args: Any, likelihood: Likelihood, policy: Policy, accelerator: Accelerator):
        self.args, self.likelihood, self.policy, self.accelerator = args, likelihood, policy, accelerator
        self.settled = args.memory_budget_gib is None

    def settle(self, model: nn.Module, longest_prompt: Callable[[], int]) -> None:
        """Choose, if that was not done, and say what was chosen.

        Args:
            model: what is trained, in its wrapper or not.
            longest_prompt: tokens of the longest prompt, which may take a while to find.
        """
        if self.settled:
            return
        denoiser = self.policy.denoiser(self.accelerator.unwrap_model(model))
        line = choose_states(self.args, self.likelihood, denoiser, longest_prompt(), self._smallest)
        if self.accelerator.is_main_process:
            print(line)
        self.settled = True

    def _smallest(self, count: int) -> int:
        """Of all processes' numbers."""
        return int(share_of(self.accelerator).gather(torch.tensor([count])).min())


def choose_states(
    args: Any,
    likelihood: Likelihood,
    denoiser: ModelDenoiser | UnpaddedDenoiser,
    prompt_length: int,
    smallest: Callable[[int], int] = lambda count: count,
) -> str:
    """Choose `Likelihood.states_per_forward`, and `num_draws` where loss.max_draws is set, by loss.memory_budget_gib.

    Args:
        args: the trainer's options.
        likelihood: is told what was chosen.
        denoiser: the model as it will be trained, but beneath its wrapper, and without gradients yet.
        prompt_length: of the longest prompt, P.
        smallest: the smallest of all processes' numbers, as all have to draw alike.

    Returns:
        One line that says what was chosen.

    Raises:
        ConfigError: one state does not fit, or loss.max_draws is below the estimator's own number.
    """
    rows, fewest, most = args.per_device_train_batch_size, likelihood.num_draws, args.max_draws
    if most is not None:
        own = f"at least {fewest}, what loss.likelihood={args.likelihood} takes by itself"
        require(args, "max_draws", most >= fewest, own)
    length = args.max_completion_length
    # a replay of all steps has as many states as the sampler took, and each of its steps reveals a token
    wanted = rows * ((most or fewest) if args.counts_draws else length)
    peak = StepMemory(likelihood, denoiser, prompt_length, length)
    if peak(1) > args.memory_budget_gib * GIB:
        needs = f"one state of {prompt_length} + {length} tokens needs {peak(1) / GIB:.3g} GiB"
        raise refusal(args, "memory_budget_gib", f"{needs}, with the gradients and without the weights")
    count = smallest(most_within(peak, args.memory_budget_gib * GIB, wanted))

    if most is not None:
        _widen(likelihood, count // rows, most)
    total = rows * likelihood.num_draws if args.counts_draws else wanted
    likelihood.states_per_forward = None if count >= total else count
    cut = "all states in one forward" if count >= total else f"{count} states a forward"
    each = (peak(2) - peak(1)) / 2**20
    return (
        f"memory budget {args.memory_budget_gib:g} GiB: {cut}, {likelihood.num_draws} draws a sequence "
        f"({peak(1) / GIB:.3g} GiB for one state, {each:.3g} MiB for each further one)"
    )


def most_within(peak: Callable[[int], float], budget: float, wanted: int) -> int:
    """The largest number of states up to ``wanted`` whose peak is within the budget, for which one is known to be.

    A peak is the largest of several sums, each linear in the states: between two points it lies below their secant.
    """
    count, slope = wanted, peak(2) - peak(1)
    while count > 1:
        if slope > 0:
            count = min(count, 1 + int((budget - peak(1)) / slope))
        if count == 1 or peak(count) <= budget:
            break
        slope = (peak(count) - peak(1)) / (count - 1)
        count -= 1
    return count


def _widen(likelihood: Likelihood, fits: int, most: int) -> None:
    """The most draws that fit beside one another, but no fewer than the estimator's own number."""
    fewest = likelihood.num_draws
    for likelihood.num_draws in range(max(fewest, min(fits, most)), fewest - 1, -1):
        if likelihood.allowed_draws() is None:
            return


class StepMemory:
    """Peak bytes of a scoring step, by states at a time; each number is measured once."""

    def __init__(
        self, likelihood: Likelihood, denoiser: ModelDenoiser | UnpaddedDenoiser, prompt_length: int, length: int
    ):
        self.likelihood, self.denoiser = likelihood, denoiser
        self.prompt_length, self.length = prompt_length, length
        self.device = next(denoiser.model.parameters()).device
        self._known: dict[int, int] = {}

    def __call__(self, states: int) -> int:
        """Peak bytes of a step with so many states in one forward; the model keeps its mode and no gradients."""
        if states not in self._known:
            model, training = self.denoiser.model, self.denoiser.model.training
            model.train()
            with torch.random.fork_rng([] if self.device.type == "cpu" else [self.device]), torch.enable_grad():
                self._known[states] = peak_memory(lambda: self._step(states), self.device)
            model.train(training)
            model.zero_grad(set_to_none=True)
        return self._known[states]

    def _step(self, states: int) -> None:
        """Two groups of so many states: the second comes when the first one's gradients are there."""
        token = int(self.denoiser.mask_id == 0)  # any but the mask

        def full(length: int) -> torch.Tensor:
            return torch.full((2 * states, length), token, device=self.device)

        ids, prompt_ids = full(self.length), full(self.prompt_length)
        hidden, ones = torch.ones_like(ids, dtype=torch.bool).unsqueeze(1), torch.ones_like(ids[:, :1]).float()
        prompt_hidden = torch.zeros_like(prompt_ids, dtype=torch.bool).unsqueeze(1)
        draws = Draws(hidden, hidden, prompt_hidden, ones, ones[:, 0], candidates=hidden)
        before, self.likelihood.states_per_forward = self.likelihood.states_per_forward, states
        estimate = self.likelihood.score(self.denoiser, prompt_ids, torch.ones_like(prompt_ids), ids, draws)
        self.likelihood.states_per_forward = before
        estimate.sequence_bound.sum().backward()
