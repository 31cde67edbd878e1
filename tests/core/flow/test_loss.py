"""The loss of the flow: walks couple their noise, gradients stay put, and terms are the formulas."""

from dataclasses import replace

import pytest
import torch
from flows import (
    DATA,
    EVALUATIONS,
    MASK,
    MOVED,
    PROMPT_MASK,
    PROMPTS,
    SCHEDULE,
    SOURCE,
    TIMESTEP,
    D,
    L,
    Oracle,
    P,
    RandomFlow,
    T,
    V,
    at,
    draws_of,
    every_solver,
    score,
    small_denoiser,
)
from torch import Tensor, nn
from toys import rng

from core.alpha_schedule import AlphaSchedule
from core.flow.loss import FlowMatchingLoss
from core.flow.path import EmbeddingFlow, FlowDraws, interpolate, velocity
from core.flow.reflexflow import ReflexFlow, anti_drift, frequency_compensation, frequency_weight
from core.flow.solvers import ODE_SOLVERS
from core.masking_strategy import DiffusionMaskingStrategy


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
