"""The sampler writes what the model knows, by every solver, and says what it cost."""

import pytest
import torch
from flows import (
    DATA,
    EOS,
    EVALUATIONS,
    MASK,
    PROMPT_MASK,
    PROMPTS,
    SCHEDULE,
    L,
    Oracle,
    P,
    RandomFlow,
    T,
    every_solver,
    small_denoiser,
)
from torch import Tensor
from toys import assert_mean, rng

from core.alpha_schedule import AlphaSchedule
from core.denoisers import EmbeddingDenoiser
from core.flow.loss import FlowMatchingLoss
from core.flow.sampler import FlowGenerator
from core.flow.solvers import ODE_SOLVERS
from core.masking_strategy import DiffusionMaskingStrategy
from core.trajectory import Trajectory


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
