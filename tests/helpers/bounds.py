"""The trajectory NELBO of one toy completion: estimates, draws and replays of it."""

from dataclasses import replace

import pytest
import torch
from toys import MASK, PROMPT, VOCABULARY, TableDenoiser, assert_mean, prompts, rng, sampler, synced

from core.alpha_schedule import SCHEDULES
from core.denoisers import Denoiser
from core.oracles.exact import conditional_logps
from core.scoring import COUPLINGS, REPLAYS, Draws, LikelihoodEstimate
from core.trajectory import Trajectory

IDS = torch.tensor([2, 0, 1, 1])
ROWS = 4000
DENOISER = TableDenoiser()
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_coupling = pytest.mark.parametrize("coupling", COUPLINGS)
every_replay = pytest.mark.parametrize("replay", REPLAYS)


class TemperedRows(Denoiser):
    """The logits of DENOISER times one parameter per batch row, so that each estimate has a gradient of its own."""

    def __init__(self, rows: int):
        self.mask_id, self.theta = MASK, torch.ones(rows, requires_grad=True)

    def logits(self, ids: torch.Tensor, attention_mask: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        states_per_row = ids.size(0) // self.theta.size(0)
        theta = self.theta.repeat_interleave(states_per_row)[rows.nonzero()[:, 0]].unsqueeze(1)
        logits = DENOISER.logits(ids, attention_mask, rows)
        return (logits.nan_to_num(neginf=0.0) * theta).masked_fill(logits.isinf(), float("-inf"))


def table() -> torch.Tensor:
    """log p of every token of IDS in every state."""
    return conditional_logps(DENOISER, PROMPT, IDS)


def estimates(name: str, denoiser: Denoiser = DENOISER, rows: int = ROWS, seed: int = 0, **loss) -> LikelihoodEstimate:
    """As many independent estimates of the bound of IDS."""
    masking, nelbo = synced(name, source="forward", **loss)
    return nelbo(denoiser, masking, *prompts(rows), IDS.expand(rows, -1), rng(seed))


def rollout(rows: int = 12, length: int = 6, **options) -> Trajectory:
    return sampler(DENOISER, length, steps=6, **options).generate(*prompts(rows), rng(1))


def replay_of(out: Trajectory, replay: str, num_draws: int = 2, temperature: float = 1.0) -> LikelihoodEstimate:
    masking, nelbo = synced(source="rollout", replay=replay, num_draws=num_draws)
    draws = nelbo.draw(masking, *out.ids.shape, 2, rng(), trajectory=out)
    return nelbo.score(DENOISER, *prompts(len(out)), out.ids, draws, temperature)


def repeated(out: Trajectory, row: int) -> Trajectory:
    return out[torch.full((ROWS,), row)]


def assert_calibrated(estimate: LikelihoodEstimate) -> None:
    """The squared error bars average to the variance of the bound."""
    bound = estimate.sequence_bound.double()
    assert bound.var() > 0
    assert_mean(estimate.standard_error.double() ** 2 - (bound - bound.mean()) ** 2, 0.0)


def forward_draws(name: str, coupling: str, num_draws: int = 8, rows: int = ROWS, length: int = 6, **loss) -> tuple:
    masking, nelbo = synced(name, num_draws=num_draws, coupling=coupling, source="forward", **loss)
    return nelbo, nelbo.draw(masking, rows, length, 2, rng())


def shown_instead(draws: Draws, ids: torch.Tensor) -> Draws:
    """The same draws with other tokens to be seen than ``ids``, (B, L)."""
    shown = ((ids + 1) % VOCABULARY).unsqueeze(1).expand_as(draws.hidden).clone()
    return replace(draws, shown=shown, rolled_out=torch.ones(len(ids), dtype=torch.bool))
