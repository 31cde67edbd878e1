"""The oracle: a normalised law, a bound on it, and the bound's limits."""

import itertools

import pytest
import torch
from toys import PROMPT, VOCABULARY, ConstantDenoiser, TableDenoiser, all_sequences, levels, rng, synced

from core.alpha_schedule import SCHEDULES, AlphaSchedule
from core.oracles.exact import any_order_average, conditional_logps, exact_log_likelihood, exact_nelbo, subsets

LENGTH = 4
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@pytest.fixture(scope="module")
def tables() -> torch.Tensor:
    """The oracle's table of each of the 81 completions."""
    return torch.stack([conditional_logps(TableDenoiser(), PROMPT, ids) for ids in all_sequences(LENGTH)])


def refined(name: str, steps: int, pieces: int, monkeypatch, bend: float = 1.0) -> AlphaSchedule:
    """A schedule of another name through the closed grid of this one, each gap (both end gaps too) cut into pieces.

    Inside a gap the levels follow (share of the gap) ** bend.
    """
    grid = levels(AlphaSchedule(name, steps))

    def formula(u: torch.Tensor, alpha_min: float, alpha_max: float) -> torch.Tensor:
        at = u * (len(grid) - 1)
        low = at.floor().long().clamp(max=len(grid) - 2)
        return torch.lerp(grid[low], grid[low + 1], (at - low) ** bend)

    monkeypatch.setitem(SCHEDULES, "refined", formula)
    return AlphaSchedule("refined", pieces * (len(grid) - 1), 0.0, 1.0)


@pytest.mark.parametrize("steps", [1, 4, 16])
@every_schedule
def test_probabilities_sum_to_one_and_the_nelbo_bounds_each(name, steps, tables):
    schedule = AlphaSchedule(name, steps)
    logps = torch.stack([exact_log_likelihood(table, schedule) for table in tables])
    bounds = torch.stack([exact_nelbo(table, schedule) for table in tables])
    assert logps.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    assert bool((bounds >= -logps - 1e-9).all())
    assert (bounds + logps).max() > 1e-3  # it is a bound, not the likelihood


@every_schedule
def test_constant_predictions_make_bound_and_likelihood_exact(name):
    logits = [0.3, -1.2, 0.7]
    ids = torch.tensor([2, 0, 1, 1])
    table = conditional_logps(ConstantDenoiser(logits), PROMPT, ids)
    nll = -torch.tensor(logits, dtype=torch.float64).log_softmax(0)[ids].sum().item()
    for steps in (1, 5):
        schedule = AlphaSchedule(name, steps)
        assert exact_nelbo(table, schedule).item() == pytest.approx(nll, abs=1e-6)
        assert -exact_log_likelihood(table, schedule).item() == pytest.approx(nll, abs=1e-6)
    assert any_order_average(table).item() == pytest.approx(nll, abs=1e-6)


def test_one_transition_predicts_everything_from_the_prompt(tables):
    schedule = AlphaSchedule("linear", 1, 0.0, 1.0)
    for table in tables[::20]:
        nll = -table[-1].sum().item()  # the last subset masks all
        assert exact_nelbo(table, schedule).item() == pytest.approx(nll, abs=1e-9)
        assert -exact_log_likelihood(table, schedule).item() == pytest.approx(nll, abs=1e-9)


@every_schedule
def test_bound_and_likelihood_depend_on_the_levels_alone(name, tables, monkeypatch):
    schedule = AlphaSchedule(name, 4)
    same_levels = refined(name, 4, 1, monkeypatch, bend=2)  # other values between the levels, other ends, other T
    halfway = [one.continuous_mask_prob(torch.tensor(t)) for one, t in ((schedule, 1.5), (same_levels, 2.5))]
    assert halfway[0] != halfway[1]
    for table in tables[::16]:
        assert exact_nelbo(table, schedule).item() == pytest.approx(exact_nelbo(table, same_levels).item(), abs=1e-12)
        pair = [exact_log_likelihood(table, one).item() for one in (schedule, same_levels)]
        assert pair[0] == pytest.approx(pair[1], abs=1e-12)


@every_schedule
def test_draws_depend_on_the_levels_alone(name, monkeypatch):
    masking, nelbo = synced(name, 4, source="forward", num_draws=4)
    draws = nelbo.draw(masking, 8, LENGTH, 2, rng())
    nelbo.schedule = masking.schedule = refined(name, 4, 1, monkeypatch)
    same = nelbo.draw(masking, 8, LENGTH, 2, rng())
    assert torch.equal(draws.hidden, same.hidden) and torch.allclose(draws.weight, same.weight)


@every_schedule
def test_refined_everywhere_the_bound_converges_to_the_any_order_average(name, tables, monkeypatch):
    for table in tables[::16]:
        limit = any_order_average(table)
        gaps = [(exact_nelbo(table, refined(name, 8, pieces, monkeypatch)) - limit).item() for pieces in (128, 256)]
        assert abs(gaps[1]) < 2e-3
        assert gaps[0] / gaps[1] == pytest.approx(2.0, abs=0.1)  # first order in the step


@every_schedule
def test_with_open_ends_a_residue_stays(name, tables, monkeypatch):
    def at_infinity(coarse: AlphaSchedule, fine: AlphaSchedule) -> float:
        """The largest gap to the limit, extrapolated from T and 2T so that the first order drops out."""
        gaps = [2 * exact_nelbo(x, fine) - exact_nelbo(x, coarse) - any_order_average(x) for x in tables[::8]]
        return torch.stack(gaps).abs().max().item()

    residue = at_infinity(AlphaSchedule(name, 1000), AlphaSchedule(name, 2000))
    closed = at_infinity(refined(name, 8, 100, monkeypatch), refined(name, 8, 200, monkeypatch))
    assert residue > 3e-5 > 5 * closed, (residue, closed)


def test_any_order_average_is_the_mean_over_permutations(tables):
    for table in tables[::16]:
        totals = []
        for order in itertools.permutations(range(LENGTH)):
            masked = [set(order[k:]) for k in range(LENGTH)]
            totals.append(
                -sum(table[sum(1 << i for i in left)][new].item() for left, new in zip(masked, order, strict=True))
            )
        assert any_order_average(table).item() == pytest.approx(sum(totals) / len(totals), abs=1e-9)


def test_table_holds_the_conditionals_of_every_state():
    denoiser, ids = TableDenoiser(), torch.tensor([2, 0, 1])
    table = conditional_logps(denoiser, PROMPT, ids, chunk=3)  # chunks do not show
    for masked, logps in zip(subsets(3), table, strict=True):
        state = torch.cat([PROMPT, torch.where(masked, VOCABULARY, ids)]).unsqueeze(0)
        rows = torch.cat([torch.zeros(2, dtype=torch.bool), masked]).unsqueeze(0)
        expected = denoiser.logits(state, None, rows).log_softmax(1)[torch.arange(int(masked.sum())), ids[masked]]
        assert torch.allclose(logps[masked].float(), expected, atol=1e-6)
        assert bool((logps[~masked] == 0).all())


def test_canvases_too_long_to_enumerate_are_refused():
    with pytest.raises(ValueError, match="17"):
        subsets(17)
