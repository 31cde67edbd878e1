"""SPG's bounds against the exact likelihood and against each other."""

import itertools

import pytest
import torch
from estimating import IDS, LENGTH, STEPS, build, draw, rollouts, text
from torch import Tensor
from toys import MASK, PROMPT, TableDenoiser, all_sequences, prompts

from core.alpha_schedule import SCHEDULES, AlphaSchedule
from core.denoisers.denoiser import tempered_logps
from core.likelihoods.sandwich import upper_bound
from core.oracles.exact import conditional_logps, exact_log_likelihood, exact_nelbo, subsets
from core.scoring import Draws, predict_states


def enumerated(table: Tensor, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Draws]:
    """The log-probs of a table (S, L) at given states, and states with these weights as the draws of one row."""
    index = (hidden * 2 ** torch.arange(hidden.size(1))).sum(dim=1)
    none = torch.zeros(1, len(hidden), 2, dtype=torch.bool)
    return table[index].float()[None], Draws(hidden[None], hidden[None], none, weight[None].float(), torch.ones(1))


def chain_draws(table: Tensor, schedule: AlphaSchedule) -> tuple[Tensor, Draws]:
    """All states of all transitions, weighted so that a sum over them is the expectation over forward draws."""
    t = torch.tensor(schedule.timesteps[1:])
    masked, mask_prob = subsets(table.size(1)), schedule.mask_prob(t).unsqueeze(1)
    size = masked.sum(dim=1)
    probability = mask_prob**size * (1 - mask_prob) ** (table.size(1) - size)
    weight = schedule.nelbo_weight(t).unsqueeze(1) * probability
    return enumerated(table, masked.expand(len(t), -1, -1).flatten(0, 1), weight.flatten())


@pytest.mark.parametrize("name", SCHEDULES)
def test_upper_bound_exact_and_lower_bound_are_in_order_for_powers_from_the_canvas_length(name):
    schedule, denoiser = AlphaSchedule(name, STEPS), TableDenoiser()
    for ids in all_sequences(3):
        table = conditional_logps(denoiser, PROMPT, ids)
        logps, draws = chain_draws(table, schedule)
        exact = exact_log_likelihood(table, schedule).item()
        assert upper_bound(logps, draws, 3.0).sum().item() >= exact - 1e-6
        assert exact >= -exact_nelbo(table, schedule).item() - 1e-6
        for power in (1.0, 1.5, 3.0):
            assert upper_bound(logps, draws, power).sum().item() >= -exact_nelbo(table, schedule).item() - 1e-6


def test_at_spgs_power_the_upper_bound_is_none():
    # the published b = 1.5: below the exact log-likelihood for many sequences of a toy
    schedule, denoiser = AlphaSchedule("linear", 4), TableDenoiser(seed=0)
    gaps = []
    for ids in all_sequences(3):
        table = conditional_logps(denoiser, PROMPT, ids)
        gaps.append(
            upper_bound(*chain_draws(table, schedule), 1.5).sum().item() - exact_log_likelihood(table, schedule).item()
        )
    below = torch.tensor(gaps) < 0
    assert min(gaps) < -0.2 and 3 <= int(below.sum()) < len(gaps)


def test_upper_bound_of_drawn_masks_rises_to_its_limit():
    likelihood, masking = build("spg")
    table = conditional_logps(TableDenoiser(), PROMPT, IDS)
    limit = upper_bound(*chain_draws(table, likelihood.schedule), 1.5).sum().item()
    means = []
    for num_draws in (8, 64, 512):
        many, _ = build("spg", num_draws=num_draws)
        trajectory = text(IDS.expand(60, -1))
        draws = draw(many, masking, trajectory, 7)
        logits = predict_states(TableDenoiser(), *prompts(60), trajectory.ids, draws, draws.scored)
        targets = trajectory.ids.unsqueeze(1).expand_as(draws.scored)[draws.scored]
        picked = tempered_logps(logits, 1.0).gather(1, targets.unsqueeze(1))
        logps = torch.zeros(draws.scored.shape).masked_scatter(draws.scored, picked.squeeze(1))
        means.append(upper_bound(logps, draws, 1.5).sum(dim=1).mean().item())
    assert means[0] < means[1] < means[2] < limit + 0.02 and limit - means[2] < 0.05


def test_sandwich_takes_the_mixture_for_negative_advantages_and_leaves_unseen_tokens_out():
    likelihood, masking = build("spg", power=2.0, upper_share=0.25)
    denoiser, trajectory = rollouts(200)
    draws = draw(likelihood, masking, trajectory)
    found = likelihood.score(denoiser, *prompts(200), trajectory.ids, draws)
    row, k = next((b, i) for b, i in itertools.product(range(200), range(LENGTH)) if draws.scored[b, :, i].all())
    states = torch.where(draws.hidden[row], MASK, trajectory.ids[row])
    full = torch.cat([PROMPT.expand(2, -1), states], dim=1)
    where = torch.zeros(full.shape, dtype=torch.bool)
    where[:, 2 + k] = True
    probs = denoiser.logits(full, None, where).softmax(dim=1)[:, trajectory.ids[row, k]]
    lower = (draws.weight[row] * probs.log()).sum().item()
    upper = 0.5 * (draws.weight[row] * probs**2).sum().log().item()
    assert found.per_token_logps[row, k].item() == pytest.approx(lower, abs=1e-5)
    assert found.negative_logps[row, k].item() == pytest.approx(0.25 * upper + 0.75 * lower, abs=1e-5)
    unseen = ~draws.scored.any(dim=1)
    assert bool(unseen.any()) and bool((found.negative_logps[unseen] == 0).all())


def test_gradient_of_the_upper_bound_is_finite_where_tokens_are_unseen():
    hidden = torch.tensor([[[True, False]]])
    draws = Draws(hidden, hidden, torch.zeros(1, 1, 0, dtype=torch.bool), torch.ones(1, 1), torch.ones(1))
    logps = torch.tensor([[[-0.5, 0.0]]], requires_grad=True)
    upper_bound(logps, draws, 1.5).sum().backward()
    assert logps.grad.tolist() == [[[1.0, 0.0]]]
