"""The flow: the path follows the schedule, solvers have their orders, walks couple their noise, gradients stay put."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import assert_mean, chi_square_excess, rng

from core.alpha_schedule import SCHEDULES, AlphaSchedule
from core.denoisers.denoiser import EmbeddingDenoiser, ModelDenoiser
from core.flow.flow_matching import (
    ODE_SOLVERS,
    EmbeddingFlow,
    FlowDraws,
    FlowEstimate,
    FlowGenerator,
    FlowMatchingLoss,
    carry,
    interpolate,
    levels,
    moments,
    velocity,
)
from core.flow.reflexflow import ReflexFlow, anti_drift, frequency_compensation, frequency_weight
from core.masking_strategy import DiffusionMaskingStrategy
from core.sampling.solvers import SOLVERS
from core.trajectory import Trajectory

V, MASK, D, L, P, T = 6, 5, 8, 6, 3, 8
EOS = 2
every_solver = pytest.mark.parametrize("solver", ODE_SOLVERS)
EVALUATIONS = {"euler": 1, "dpm": 1, "unipc": 1, "rk4": 4}  # a step
DATA = torch.tensor([[0, 4, 1, 3, 2, 2], [3, 3, 0, 1, 4, 2], [1, 0, 4, 4, 2, 2]])
PROMPTS = torch.tensor([[4, 1, 0], [2, 3, 4], [0, 0, 1]])  # the first one starts with padding
PROMPT_MASK = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1]])
SCHEDULE = AlphaSchedule(max_timesteps=T)


class RandomFlow(EmbeddingDenoiser):
    """A smooth random function of all attended embeddings, with one weight to differentiate by. Keeps its inputs."""

    def __init__(self, sharpness: float = 2.0):
        self.mask_id = MASK
        table = torch.randn(V, D, generator=rng(1))
        self.table = table / table.square().mean(dim=1, keepdim=True).sqrt()
        self.mix = torch.randn(D, D, generator=rng(2)) / D**0.5
        self.weight = torch.tensor(sharpness, requires_grad=True)
        self.seen: list[tuple[Tensor, Tensor, bool]] = []  # embeddings, attention mask, gradient

    def logits(self, ids: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        return self.logits_from_embeddings(self.table[ids], attention_mask, rows)

    def embedding_table(self) -> Tensor:
        return self.table

    def logits_from_embeddings(self, embeddings: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        self.seen.append((embeddings, attention_mask, torch.is_grad_enabled()))
        attended = embeddings * attention_mask.unsqueeze(-1)
        hidden = embeddings + torch.tanh(attended.mean(dim=1, keepdim=True) @ self.mix)
        logits = (self.weight * hidden @ self.table.T / D)[rows]
        return logits.masked_fill(torch.arange(V) == MASK, float("-inf"))


class Oracle(RandomFlow):
    """Knows the one text that there is."""

    def __init__(self, text: Tensor):
        super().__init__()
        self.text = text

    def logits_from_embeddings(self, embeddings: Tensor, attention_mask: Tensor | None, rows: Tensor) -> Tensor:
        super().logits_from_embeddings(embeddings, attention_mask, rows)
        certain = 1e4 * nn.functional.one_hot(self.text, V).float()
        return certain.repeat(embeddings.size(0), 1)


def draws_of(loss: FlowMatchingLoss, p_mask_prompt: float = 0.3, rows: int = 3, seed: int = 0) -> FlowDraws:
    masking = DiffusionMaskingStrategy(p_mask_prompt, loss.schedule.max_timesteps)
    return loss.draw(masking, rows, L, P, D, rng(seed))


def score(
    denoiser: EmbeddingDenoiser,
    loss: FlowMatchingLoss,
    draws: FlowDraws,
    source: Tensor | None = None,
    rows: slice = slice(None),
    ids: Tensor = DATA,
    **options,
) -> FlowEstimate:
    draws = replace(draws, **{name: value[rows] for name, value in vars(draws).items()})
    source = None if source is None else source[rows]
    return loss.score(denoiser, PROMPTS[rows], PROMPT_MASK[rows], ids[rows], draws, source, **options)


def at(timestep: list[list[int]], seed: int = 0) -> tuple[FlowMatchingLoss, FlowDraws]:
    """A loss and draws at given timesteps."""
    loss = FlowMatchingLoss(SCHEDULE, num_draws=len(timestep[0]), noise_scale=0.7)
    return loss, replace(draws_of(loss, seed=seed), timestep=torch.tensor(timestep))


# Three rows, two states each, with walks of 0 to 5 timesteps.
TIMESTEP, SOURCE = [[4, 6], [2, 8], [7, 3]], torch.tensor([[6, 6], [7, 8], [9, 3]])
MOVED = torch.tensor([[True, False], [True, False], [True, False]])


# ---- the path -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_enters_by_the_mask_probability_of_the_schedule(name):
    schedule = AlphaSchedule(name, T)
    loss, denoiser = FlowMatchingLoss(schedule, num_draws=T + 3, noise_scale=0.7), RandomFlow()
    every = torch.tensor([list(schedule.timesteps)] * 3)
    draws = replace(draws_of(loss), timestep=every)
    score(denoiser, loss, draws)
    z = denoiser.seen[-1][0][:, P:].view(3, T + 3, L, D)
    clean = denoiser.table[DATA].unsqueeze(1)
    noise = denoiser.table[MASK] + 0.7 * draws.eps
    for i, t in enumerate(schedule.timesteps):
        sigma = schedule.mask_prob(t).item()
        assert torch.allclose(z[:, i], ((1 - sigma) * clean + sigma * noise[:, i : i + 1])[:, 0], atol=1e-6)
    assert torch.equal(z[:, 0], clean[:, 0]) and torch.equal(z[:, -1], noise[:, -1])


def test_prompts_enter_as_their_embeddings_with_hidden_tokens_masked_and_padding_left_alone():
    loss, denoiser = FlowMatchingLoss(SCHEDULE, num_draws=4), RandomFlow()
    draws = draws_of(loss, p_mask_prompt=0.5)
    score(denoiser, loss, draws)
    embeddings, attention_mask, _ = denoiser.seen[-1]
    for b in range(3):
        for m in range(4):
            row = b * 4 + m
            hidden = draws.prompt_hidden[b, m] & PROMPT_MASK[b].bool()
            expected = torch.where(hidden, MASK, PROMPTS[b])
            assert torch.equal(embeddings[row, :P], denoiser.table[expected])
            assert attention_mask[row].tolist() == PROMPT_MASK[b].tolist() + [1] * L
    assert bool((draws.prompt_hidden & PROMPT_MASK.bool().unsqueeze(1)).any())
    assert bool((draws.prompt_hidden & ~PROMPT_MASK.bool().unsqueeze(1)).any())


def test_velocity_is_bounded_near_the_data():
    z, xhat = torch.randn(3, L, D, generator=rng()), torch.randn(3, L, D, generator=rng(1))
    found = velocity(z, xhat, torch.tensor([0.5, 0.05, 0.001], dtype=torch.float64))
    for row, divisor in enumerate((0.5, 0.05, 0.05)):
        assert torch.allclose(found[row], (z - xhat)[row] / divisor)


# ---- exponential integration ----------------------------------------------------------------------------------------


def test_moments_equal_their_integrals():
    nodes, weights = legendre(60)
    for rho in (0.02, 0.1, 0.5, 0.9, 0.999):
        s = rho + (1 - rho) * nodes  # sigma_s is 1
        for k, moment in enumerate(moments(torch.tensor([rho], dtype=torch.float64))):
            integral = rho * (1 - rho) * (weights * (s - 1) ** k / s**2).sum()
            assert math.isclose(moment.item(), integral.item(), rel_tol=1e-9, abs_tol=1e-15), (rho, k)


def legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss's rule on [0, 1], from the eigenvalues of Jacobi's matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    side = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
    return (values + 1) / 2, vectors[0] ** 2


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_step_is_exact_where_the_prediction_is_a_polynomial_in_sigma(degree):
    """xhat = a + b s + c s^2 has the solution z = a - b s ln s - c s^2 + K s, from any s down to 0."""
    a, b, c, K = torch.randn(4, 1, L, D, generator=rng(), dtype=torch.float64)
    b, c = b * (degree > 0), c * (degree > 1)

    def xhat(s: Tensor) -> Tensor:
        s = s.view(-1, 1, 1)
        return a + b * s + c * s**2

    def solution(s: Tensor) -> Tensor:
        s = s.view(-1, 1, 1)
        return a - b * torch.special.xlogy(s, s) - c * s**2 + K * s

    start = torch.tensor([0.9, 0.9, 0.4, 1.0], dtype=torch.float64)
    to = torch.tensor([0.5, 0.0, 0.1, 0.98], dtype=torch.float64)
    # As a predictor meets them (two points behind), and as a corrector does (the far end and one behind).
    for second, third in ((start + 0.05, start + 0.2), (to, start + 0.1)):
        nodes = [(s, xhat(s)) for s in (start, second, third)[: degree + 1]]
        assert torch.allclose(carry(solution(start), to, nodes), solution(to), atol=1e-12)


def test_the_step_to_the_data_extrapolates_the_prediction():
    sigma, before, zero = (torch.full((2,), value, dtype=torch.float64) for value in (0.2, 0.5, 0.0))
    z, now, earlier = torch.randn(3, 2, L, D, generator=rng(), dtype=torch.float64)
    assert torch.allclose(carry(z, zero, [(sigma, now)]), now)
    expected = now + (now - earlier) / (0.2 - 0.5) * (0 - 0.2)
    assert torch.allclose(carry(z, zero, [(sigma, now), (before, earlier)]), expected)


# ---- solvers --------------------------------------------------------------------------------------------------------

# Data of four widths, so that errors of different sign and size show.
MEAN, DATA_STD, NOISE_STD = 0.7, torch.tensor([0.2, 0.6, 1.0, 2.0], dtype=torch.float64), 1.3


def gaussian_std(sigma: Tensor) -> Tensor:
    return ((1 - sigma) ** 2 * DATA_STD**2 + sigma**2 * NOISE_STD**2).sqrt()


def gaussian_posterior(z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
    """E[x | z] for normal data and normal noise around 0."""
    s = sigma.view(-1, 1, 1)
    gain = (1 - s) * DATA_STD**2 / gaussian_std(s) ** 2
    return MEAN + gain * (z - (1 - s) * MEAN)


def gaussian_path(z: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
    """The exact flow: a path keeps its number of standard deviations from the mean of its level."""
    s, t = sigma.view(-1, 1, 1), to.view(-1, 1, 1)
    return (1 - t) * MEAN + gaussian_std(t) / gaussian_std(s) * (z - (1 - s) * MEAN)


def uneven(steps: int, end: float) -> Tensor:
    """A grid from 1 to ``end`` whose steps differ fourfold."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return 1 + (end - 1) * (0.4 * u + 0.6 * u**2)


@pytest.mark.parametrize(
    "solver, least, most", [("euler", 0.9, 1.1), ("dpm", 1.8, 2.3), ("unipc", 2.8, 3.3), ("rk4", 3.8, 4.4)]
)
def test_order_of_the_solver(solver, least, most):
    z = NOISE_STD * torch.randn(3, 2, 4, generator=rng(), dtype=torch.float64)
    counts, errors = torch.tensor([32.0, 64.0, 128.0]), []
    for count in counts:
        grid = uneven(int(count), 0.2).expand(3, -1)
        found = ODE_SOLVERS[solver](gaussian_posterior, z, grid)
        errors.append((found - gaussian_path(z, grid[:, 0], grid[:, -1])).abs().max())
    x, y = -counts.log(), torch.stack(errors).log().float()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert least < slope < most, (slope, errors)


@every_solver
def test_the_flow_of_the_exact_posterior_reproduces_the_law_of_the_data(solver):
    """Tokens at -1 and 1 with chances .3 and .7; standard normal noise is carried to them in these shares."""
    tokens, chances = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)

    def posterior(z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1)
        likelihood = -((z - (1 - s) * tokens) ** 2) / (2 * s**2)  # (B, 1, 2)
        return (likelihood + chances.log()).softmax(dim=2) @ tokens.view(2, 1)

    z = torch.randn(4000, 1, 1, generator=rng(), dtype=torch.float64)
    found = ODE_SOLVERS[solver](posterior, z, uneven(100, 0.0).expand(4000, -1)).flatten()
    assert bool(((found.abs() - 1).abs() < 1e-6).all())
    assert_mean((found > 0).double(), 0.7)


@every_solver
def test_a_prediction_that_knows_the_data_carries_noise_onto_it(solver):
    data, z = torch.randn(2, 1, L, D, generator=rng(), dtype=torch.float64)
    found = ODE_SOLVERS[solver](lambda z, sigma, active: data.expand_as(z), z, uneven(5, 0.0).unsqueeze(0))
    assert torch.allclose(found, data, atol=1e-12)


class Counted:
    """The normal posterior, counting calls; refuses to be asked about nothing and leaves idle rows at 0."""

    def __init__(self):
        self.sigmas: list[Tensor] = []
        self.active: list[Tensor] = []

    def __call__(self, z: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
        assert bool(active.any()) and bool((sigma[active] > 0).all())
        self.sigmas.append(sigma)
        self.active.append(active)
        return gaussian_posterior(z, sigma, active) * active.view(-1, 1, 1)


@pytest.mark.parametrize("end", [0.0, 0.1])
@every_solver
def test_evaluations_a_step(solver, end):
    counted = Counted()
    ODE_SOLVERS[solver](counted, torch.zeros(1, 1, 4, dtype=torch.float64), uneven(6, end).unsqueeze(0))
    last_step_is_euler = solver == "rk4" and end == 0
    assert len(counted.sigmas) == 6 * EVALUATIONS[solver] - 3 * last_step_is_euler


@pytest.mark.parametrize("end", [0.0, 0.1])
@every_solver
def test_a_padded_row_equals_the_same_row_alone(solver, end):
    grids = [uneven(6, end), uneven(3, end), uneven(1, end)]
    padded = torch.stack([torch.cat([g, g[-1:].expand(7 - len(g))]) for g in grids])
    z = torch.randn(3, L, 4, generator=rng(), dtype=torch.float64)
    counted = Counted()
    together = ODE_SOLVERS[solver](counted, z, padded)
    assert bool(torch.isfinite(together).all())
    for row, grid in enumerate(grids):
        alone = Counted()
        assert torch.equal(together[row], ODE_SOLVERS[solver](alone, z[row : row + 1], grid.unsqueeze(0))[0])
        assert sum(int(active[row]) for active in counted.active) == len(alone.sigmas)


@every_solver
def test_a_row_that_has_arrived_stays(solver):
    z = torch.randn(2, L, 4, generator=rng(), dtype=torch.float64)
    grid = torch.stack([torch.full((4,), 0.3, dtype=torch.float64), torch.linspace(0.9, 0.3, 4, dtype=torch.float64)])
    found = ODE_SOLVERS[solver](gaussian_posterior, z, grid)
    assert torch.equal(found[0], z[0]) and not torch.allclose(found[1], z[1])


def test_masks_and_flows_have_solvers_of_the_same_names():
    assert ODE_SOLVERS.keys() == SOLVERS.keys()


@pytest.mark.parametrize("ends, steps", [((0.01, 0.99), T + 2), ((0.0, 0.99), T + 1), ((0.0, 1.0), T)])
def test_transitions_without_width_drop_out_of_the_levels(ends, steps):
    grid = levels(AlphaSchedule("linear", T, *ends))
    assert len(grid) == steps + 1 and bool((grid.diff() > 0).all()) and grid[0] == 0 and grid[-1] == 1


# ---- the sampler ----------------------------------------------------------------------------------------------------


def generate(
    seed: int = 0, denoiser: EmbeddingDenoiser | None = None, schedule: AlphaSchedule = SCHEDULE, **options
) -> tuple[Trajectory, list[tuple[int, Tensor]]]:
    seen: list[tuple[int, Tensor]] = []
    sampler = FlowGenerator(RandomFlow(8.0) if denoiser is None else denoiser, schedule, L, **options)
    return sampler.generate(PROMPTS, PROMPT_MASK, rng(seed), lambda t, ids: seen.append((t, ids))), seen


@every_solver
def test_an_oracle_writes_its_text_from_any_noise(solver):
    found, _ = generate(denoiser=Oracle(DATA[0]), solver=solver, noise_scale=3.0)
    assert torch.equal(found.ids, DATA[0].expand(3, -1))


def test_without_temperature_the_text_is_the_same_for_every_seed_and_with_it_seeds_matter():
    cold = [generate(seed, temperature=0.0)[0].ids for seed in (0, 1)]
    warm = [generate(seed)[0].ids for seed in (0, 1, 0)]
    assert torch.equal(*cold)
    assert not torch.equal(warm[0], warm[1]) and torch.equal(warm[0], warm[2])


def test_temperature_scales_the_starting_noise():
    starts = []
    for temperature in (0.0, 1.0, 2.0):
        denoiser = RandomFlow()
        generate(denoiser=denoiser, temperature=temperature, noise_scale=0.5)
        starts.append(denoiser.seen[0][0][:, P:] - denoiser.table[MASK])
    assert torch.equal(starts[0], torch.zeros_like(starts[0]))
    assert torch.allclose(starts[2], 2 * starts[1], atol=1e-6)
    assert_mean(starts[1].flatten() ** 2, 0.25)


@every_solver
def test_forwards_count_the_evaluations_and_the_last_one_reveals_everything(solver):
    denoiser = RandomFlow(8.0)
    found, seen = generate(denoiser=denoiser, solver=solver)
    evaluations = len(denoiser.seen)
    assert evaluations == (T + 2) * EVALUATIONS[solver] - 3 * (solver == "rk4")  # no stage at the data itself
    assert found.forwards.tolist() == [evaluations] * 3 and len(seen) == evaluations
    assert bool((found.step_map == evaluations - 1).all())
    assert bool((found.commit_logps == 0).all()) and not found.exact
    assert not any(gradient for _, _, gradient in denoiser.seen)


@every_solver
def test_the_observer_sees_every_level_and_ends_with_the_text(solver):
    found, seen = generate(solver=solver)
    timesteps = [t for t, _ in seen]
    assert list(dict.fromkeys(timesteps)) == list(range(T + 1, -1, -1))  # falling, none left out
    assert bool((torch.stack([ids for _, ids in seen]) != MASK).all())
    assert torch.equal(seen[-1][1], found.ids)


def test_every_solver_takes_its_own_path():
    ends = []
    for solver in ODE_SOLVERS:
        denoiser = RandomFlow(4.0)
        generate(denoiser=denoiser, solver=solver, schedule=AlphaSchedule(max_timesteps=3))
        ends.append(denoiser.seen[-1][0])
    for i, end in enumerate(ends):
        assert all((end - other).abs().max() > 1e-3 for other in ends[:i])


def test_transitions_without_width_cost_nothing():
    for ends, steps in (((0.01, 0.99), T + 2), ((0.0, 1.0), T)):
        assert generate(schedule=AlphaSchedule("linear", T, *ends))[0].forwards[0] == steps


def test_a_completion_ends_at_its_first_eos():
    found, _ = generate(denoiser=Oracle(DATA[0]), eos_id=EOS)  # its text is 0 4 1 3 EOS EOS
    assert found.lengths.tolist() == [5] * 3 and found.finish_reason == ["eos"] * 3
    assert found.completions()[0] == [0, 4, 1, 3, EOS]
    open_end, _ = generate(denoiser=Oracle(torch.tensor([0, 4, 1, 3, 4, 4])), eos_id=EOS)
    assert open_end.lengths.tolist() == [L] * 3 and open_end.finish_reason == ["length"] * 3
    unnamed, _ = generate(denoiser=Oracle(DATA[0]))
    assert unnamed.lengths.tolist() == [L] * 3 and not bool(unnamed.stopped.any())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"solver": "heun"}, "generation.solver='heun'.*euler, dpm, unipc, rk4"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"noise_scale": 0.0}, "noise_scale=0.0"),
    ],
)
def test_impossible_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        FlowGenerator(RandomFlow(), SCHEDULE, L, **options)


# ---- drawing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_timesteps_are_stratified_over_the_width_measure(name):
    schedule, rows, draws = AlphaSchedule(name, T), 4000, 3
    loss = FlowMatchingLoss(schedule, num_draws=draws)
    timestep = loss.draw(DiffusionMaskingStrategy(0.0, T), rows, 1, 1, 1, rng()).timestep
    expected = rows * draws * schedule.width(torch.arange(T + 2))
    assert chi_square_excess(torch.bincount(timestep.flatten(), minlength=T + 2), expected) < 4
    for m in range(draws):  # draw m comes from the m-th third of the measure
        ends = torch.tensor([m / draws, (m + 1) / draws]).clamp(min=1e-9)
        low, high = schedule.transition_at(ends)
        assert bool((timestep[:, m] >= low).all()) and bool((timestep[:, m] <= high).all())


def test_draws_come_from_the_generator_alone():
    state = torch.random.get_rng_state()
    loss = FlowMatchingLoss(SCHEDULE, num_draws=3)
    first, again, other = (draws_of(loss, seed=seed) for seed in (0, 0, 1))
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(again, name))
    assert not torch.equal(first.eps, other.eps)
    assert torch.equal(state, torch.random.get_rng_state())


def test_noise_is_standard_normal_and_prompts_are_hidden_at_their_rate():
    loss = FlowMatchingLoss(SCHEDULE, num_draws=4)
    draws = draws_of(loss, p_mask_prompt=0.3, rows=400)
    eps = draws.eps.flatten()
    assert_mean(eps, 0.0)
    assert_mean(eps**2, 1.0)
    assert_mean(draws.prompt_hidden.double().flatten(), 0.3)


# ---- the loss -------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_the_mean_over_the_canvas():
    loss, draws = at(TIMESTEP)
    denoiser = RandomFlow()
    found = score(denoiser, loss, draws)
    embeddings, attention_mask, _ = denoiser.seen[-1]
    rows = torch.arange(P + L).expand(6, -1) >= P
    logps = denoiser.logits_from_embeddings(embeddings, attention_mask, rows).log_softmax(dim=1).view(3, 2, L, V)
    expected = -logps.gather(3, DATA[:, None, :, None].expand(-1, 2, -1, -1)).mean(dim=(2, 3))
    assert torch.allclose(found.cross_entropy, expected)
    assert torch.isclose(found.loss, expected.mean())


@pytest.mark.parametrize("reflexflow", [None, ReflexFlow()])
def test_a_source_at_the_timestep_itself_is_the_plain_loss(reflexflow):
    loss, draws = at(TIMESTEP)
    plain = score(RandomFlow(), loss, draws)
    same = score(RandomFlow(), loss, draws, draws.timestep, reflexflow=reflexflow)
    assert torch.equal(plain.loss, same.loss) and torch.equal(plain.cross_entropy, same.cross_entropy)
    assert same.forwards == plain.forwards == 0 and not bool(same.rolled_out.any())
    assert same.anti_drift.shape == same.frequency_compensation.shape == same.exposure_bias.shape == (0,)


@every_solver
def test_noise_is_coupled_so_that_a_model_without_error_has_no_exposure_bias(solver):
    """A model that knows the text walks along the very path that the noise of the draws lies on."""
    loss, draws = at(TIMESTEP)
    text, denoiser = DATA[:1].expand(3, -1), Oracle(DATA[0])
    score(denoiser, loss, draws, ids=text)
    on_path = denoiser.seen[-1][0]
    found = score(denoiser, loss, draws, SOURCE, ids=text, solver=solver, reflexflow=ReflexFlow())
    assert torch.allclose(denoiser.seen[-1][0], on_path, atol=1e-5)
    assert torch.equal(found.rolled_out, MOVED)
    assert found.anti_drift.abs().max() < 1e-6 and found.exposure_bias.abs().max() < 1e-6


@every_solver
def test_states_walk_level_by_level_with_the_named_solver(solver):
    loss, draws = at(TIMESTEP)
    denoiser = RandomFlow()
    score(denoiser, loss, draws, SOURCE, solver=solver)
    z = denoiser.seen[-1][0][:, P:].view(3, 2, L, D)
    for b, m in MOVED.nonzero().tolist():
        expected = walked(RandomFlow(), loss, draws, b, m, solver)
        assert torch.allclose(z[b, m], expected[0], atol=1e-5)
        assert (z[b, m] - on_path(denoiser, loss, draws, b, m)[0]).abs().max() > 0.02
    for b, m in (~MOVED).nonzero().tolist():
        assert torch.equal(z[b, m], on_path(denoiser, loss, draws, b, m)[0])


def on_path(
    denoiser: RandomFlow, loss: FlowMatchingLoss, draws: FlowDraws, b: int, m: int, t: int | None = None
) -> Tensor:
    """State m of row b at its own or at another timestep, with the noise that was drawn for it."""
    sigma = loss.schedule.mask_prob(draws.timestep[b, m] if t is None else t).view(1)
    noise = denoiser.table[MASK] + loss.noise_scale * draws.eps[b, m]
    return interpolate(denoiser.table[DATA[b : b + 1]], noise.unsqueeze(0), sigma)


def flow_of(denoiser: RandomFlow, loss: FlowMatchingLoss, draws: FlowDraws, b: int, m: int) -> EmbeddingFlow:
    hidden = draws.prompt_hidden[b, m] & PROMPT_MASK[b].bool()
    prompt = torch.where(hidden, MASK, PROMPTS[b]).unsqueeze(0)
    return EmbeddingFlow(denoiser, prompt, PROMPT_MASK[b : b + 1], denoiser.table, loss.noise_scale)


def walked(denoiser: RandomFlow, loss: FlowMatchingLoss, draws: FlowDraws, b: int, m: int, solver: str) -> Tensor:
    """State m of row b after its walk, by itself."""
    flow = flow_of(denoiser, loss, draws, b, m)
    source, timestep = int(SOURCE[b, m]), int(draws.timestep[b, m])
    grid = loss.schedule.mask_prob(torch.arange(source, timestep - 1, -1)).unsqueeze(0)
    with torch.no_grad():
        start = on_path(denoiser, loss, draws, b, m, source)
        return ODE_SOLVERS[solver](lambda z, sigma, active: flow.expected(flow.logits(z)), start, grid)


def test_every_solver_gives_another_loss():
    loss, draws = at(TIMESTEP)
    found = {solver: score(RandomFlow(), loss, draws, SOURCE, solver=solver) for solver in ODE_SOLVERS}
    values = torch.stack([estimate.cross_entropy[MOVED] for estimate in found.values()])
    assert all((values[i] - values[j]).abs().max() > 1e-6 for i in range(4) for j in range(i))
    plain = score(RandomFlow(), loss, draws).cross_entropy
    assert all(torch.equal(estimate.cross_entropy[~MOVED], plain[~MOVED]) for estimate in found.values())


@pytest.mark.parametrize("reflexflow", [None, ReflexFlow()])
@every_solver
def test_forwards_are_those_of_the_longest_walk_and_only_walking_rows_take_part(solver, reflexflow):
    loss, draws = at(TIMESTEP)
    denoiser = RandomFlow()
    found = score(denoiser, loss, draws, SOURCE, solver=solver, reflexflow=reflexflow)
    steps = [2, 5, 2]  # of the rows that walk
    clean = [3] * (reflexflow is not None)
    walking = [sum(step > i for step in steps) for i in range(max(steps)) for _ in range(EVALUATIONS[solver])]
    assert [len(embeddings) for embeddings, _, _ in denoiser.seen] == [*walking, *clean, 6]
    assert found.forwards == len(walking) + len(clean)


def test_only_the_last_forward_has_a_gradient():
    loss, draws = at(TIMESTEP)
    denoiser = RandomFlow()
    found = score(denoiser, loss, draws, SOURCE, reflexflow=ReflexFlow())
    assert [gradient for _, _, gradient in denoiser.seen] == [False] * found.forwards + [True]
    assert not denoiser.seen[-1][0].requires_grad
    assert not found.exposure_bias.requires_grad
    assert found.anti_drift.requires_grad and found.frequency_compensation.requires_grad


def test_loss_and_gradient_are_the_formulas():
    """L = CE + beta2 FC + beta1 ADR, state by state; only the prediction at the state itself is differentiated."""
    weights = ReflexFlow(alpha=1.5, beta1=3.0, beta2=0.5)
    loss, draws = at(TIMESTEP)
    ours, explicit = RandomFlow(), RandomFlow()
    found = score(ours, loss, draws, SOURCE, reflexflow=weights)
    found.loss.backward()

    total, drifts, compensations, biases = torch.zeros(()), [], [], []
    for b in range(3):
        for m in range(2):
            flow, clean = flow_of(explicit, loss, draws, b, m), explicit.table[DATA[b : b + 1]]
            sigma, path = loss.schedule.mask_prob(draws.timestep[b, m]).view(1), on_path(explicit, loss, draws, b, m)
            z = walked(explicit, loss, draws, b, m, "unipc") if MOVED[b, m] else path
            logits = flow.logits(z)
            cross_entropy = nn.functional.cross_entropy(logits[0], DATA[b])
            total = total + cross_entropy
            if MOVED[b, m]:
                with torch.no_grad():
                    reference = flow.logits(path)
                    p = logits.softmax(-1)
                    bias = velocity(path, flow.expected(reference), sigma) - velocity(z, p @ flow.table, sigma)
                    weight = frequency_weight(bias, sigma, 1.5)
                    assert weight.std() > 1e-3
                v = velocity(z, logits.softmax(-1) @ flow.table, sigma)
                drifts.append(anti_drift(v, z, clean))
                compensations.append(frequency_compensation(v, velocity(path, clean, sigma), weight))
                biases.append(cross_entropy - nn.functional.cross_entropy(reference[0], DATA[b]))
    total = (total + 3.0 * sum(drifts).sum() + 0.5 * sum(compensations).sum()) / 6
    total.backward()
    assert torch.allclose(found.anti_drift, torch.cat(drifts), rtol=1e-4)
    assert torch.allclose(found.frequency_compensation, torch.cat(compensations), rtol=1e-4)
    assert torch.allclose(found.exposure_bias, torch.stack(biases), atol=1e-5)
    assert torch.isclose(found.loss, total, rtol=1e-5)
    assert torch.isclose(ours.weight.grad, explicit.weight.grad, rtol=1e-4) and ours.weight.grad.abs() > 1e-2


def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_rows():
    loss, draws = at(TIMESTEP)
    source = SOURCE.clone()
    source[1] = draws.timestep[1]  # a row that is not rolled out
    options = {"reflexflow": ReflexFlow()}
    whole = score(RandomFlow(), loss, draws, source, **options).loss
    parts = [score(RandomFlow(), loss, draws, source, slice(b, b + 1), **options).loss for b in range(3)]
    assert torch.isclose(whole, torch.stack(parts).mean())


def test_forwards_without_gradient_go_to_the_walker():
    loss, draws = at(TIMESTEP)
    denoiser, walker = RandomFlow(), RandomFlow()
    found = score(denoiser, loss, draws, SOURCE, reflexflow=ReflexFlow(), walker=walker)
    assert len(walker.seen) == found.forwards > 0 and len(denoiser.seen) == 1
    alone = score(RandomFlow(), loss, draws, SOURCE, reflexflow=ReflexFlow())
    assert torch.equal(found.loss, alone.loss)


def test_scoring_draws_nothing():
    loss, draws = at(TIMESTEP)
    state = torch.random.get_rng_state()
    first, again = (score(RandomFlow(), loss, draws, SOURCE).loss for _ in range(2))
    assert torch.equal(first, again) and torch.equal(state, torch.random.get_rng_state())


def test_a_walk_over_levels_without_width_takes_the_steps_that_are_left():
    schedule = AlphaSchedule("linear", T, 0.0, 1.0)  # T + 1 is T, and -1 is 0
    loss = FlowMatchingLoss(schedule, num_draws=1)
    draws = replace(draws_of(loss), timestep=torch.tensor([[T - 2], [T - 1], [T]]))
    found = score(RandomFlow(), loss, draws, torch.full((3, 1), T + 1), solver="euler")
    assert found.forwards == 2 and found.rolled_out.flatten().tolist() == [True, True, False]


def test_impossible_rollouts_are_errors():
    loss, draws = at(TIMESTEP)
    with pytest.raises(ValueError, match="source must be at least its timestep"):
        score(RandomFlow(), loss, draws, draws.timestep - 1)
    with pytest.raises(ValueError, match=r"scheduled_sampling.sampler='heun'.*euler, dpm, unipc, rk4"):
        score(RandomFlow(), loss, draws, solver="heun")
    with pytest.raises(ValueError, match="num_draws=0"):
        FlowMatchingLoss(SCHEDULE, num_draws=0)
    with pytest.raises(ValueError, match="noise_scale=-1"):
        FlowMatchingLoss(SCHEDULE, noise_scale=-1.0)


# ---- a real model ---------------------------------------------------------------------------------------------------


class SmallModel(nn.Module):
    """One transformer layer on embeddings, with dropout; keeps the mode and the dtype of each forward."""

    def __init__(self, width: int = 32, dropout: float = 0.0):
        super().__init__()
        self.embedding = nn.Embedding(V, width)
        self.position = nn.Parameter(torch.zeros(P + L, width))
        self.body = nn.TransformerEncoderLayer(width, 2, 64, dropout, batch_first=True)
        self.head = nn.Linear(width, V)
        for parameter, seed in zip(self.parameters(), range(100), strict=False):
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=parameter.size(-1) ** -0.5, generator=rng(seed))
        self.modes: list[bool] = []

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor):
        self.modes.append(self.training)
        logits = self.head(self.body(inputs_embeds + self.position, src_key_padding_mask=attention_mask == 0))
        return Trained(logits)


class Trained:
    def __init__(self, logits: Tensor):
        self.logits = logits


def small_denoiser(**options) -> ModelDenoiser:
    model = SmallModel(**options)
    return ModelDenoiser(model, MASK, model.head, embedding=model.embedding)


def copy_task(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The prompt twice is the completion."""
    prompts = torch.randint(0, MASK, (rows, P), generator=generator)
    return prompts, torch.ones_like(prompts), torch.cat([prompts, prompts], dim=1)


def test_training_lowers_the_cross_entropy_and_the_sampler_learns_the_task():
    denoiser, loss, noise = small_denoiser(), FlowMatchingLoss(SCHEDULE, num_draws=2), rng()
    masking = DiffusionMaskingStrategy(0.0, T)
    optimizer = torch.optim.Adam(denoiser.model.parameters(), lr=6e-3)
    history = []
    for _ in range(100):
        batch = copy_task(64, noise)
        found = loss.score(denoiser, *batch, loss.draw(masking, 64, L, P, 32, noise))
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        history.append(found.loss.item())
    assert denoiser.model.embedding.weight.grad is None  # the table is never trained through
    assert history[0] > 1.6 and sum(history[-10:]) / 10 < 0.4  # log 5 = 1.6 is chance
    prompts, prompt_mask, text = copy_task(100, noise)
    for solver in ODE_SOLVERS:
        written = FlowGenerator(denoiser, SCHEDULE, L, solver).generate(prompts, prompt_mask, noise).ids
        assert (written == text).float().mean() > 0.7, solver  # chance is .2


def test_walks_run_in_eval_mode_and_leave_the_modes_as_they_were():
    denoiser = small_denoiser(dropout=0.5)
    denoiser.model.train()
    denoiser.model.head.eval()
    loss = FlowMatchingLoss(SCHEDULE, num_draws=2)
    draws = loss.draw(DiffusionMaskingStrategy(0.0, T), 3, L, P, 32, rng())
    draws = replace(draws, timestep=torch.tensor(TIMESTEP))
    found = score(denoiser, loss, draws, SOURCE, solver="euler", reflexflow=ReflexFlow())
    # Five steps of the longest walk; then the clean states and the loss, to be compared, in the same mode.
    assert denoiser.model.modes == [False] * 5 + [True, True] and found.forwards == 6
    assert denoiser.model.training and denoiser.model.body.training and not denoiser.model.head.training


def test_the_ode_is_float32_under_autocast():
    denoiser = small_denoiser()
    loss = FlowMatchingLoss(SCHEDULE, num_draws=2)
    draws = loss.draw(DiffusionMaskingStrategy(0.0, T), 3, L, P, 32, rng())
    draws = replace(draws, timestep=torch.tensor(TIMESTEP))
    exact = score(denoiser, loss, draws, SOURCE, reflexflow=ReflexFlow())
    with torch.autocast("cpu", torch.bfloat16):
        found = score(denoiser, loss, draws, SOURCE, reflexflow=ReflexFlow())
        flow = EmbeddingFlow(denoiser, PROMPTS, PROMPT_MASK, denoiser.embedding_table(), 1.0)
        logits = torch.randn(3, L, V, generator=rng())
        xhat = flow.expected(logits)
    assert torch.equal(xhat, flow.expected(logits)) and xhat.dtype == torch.float32
    assert found.loss.dtype == torch.float32 and torch.isclose(found.loss, exact.loss, rtol=0.02)
