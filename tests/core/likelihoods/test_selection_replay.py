"""The law of low_confidence: its sum over all paths, samples of it, and its parts."""

import itertools
import math

import pytest
import torch
from estimating import LENGTH, STEPS, build, draw, rollouts
from torch import Tensor
from toys import TableDenoiser, all_sequences, assert_mean, chi_square_excess, prompts, rng, sampler

from core.likelihoods import SelectionReplay
from core.masking_strategy import DiffusionMaskingStrategy
from core.trajectory import Trajectory


def all_paths(sizes: tuple[int, ...]) -> Trajectory:
    """Every completion with every way to reveal so many tokens a step."""
    length = sum(sizes)
    maps = sorted(set(itertools.permutations([step for step, size in enumerate(sizes) for _ in range(size)])))
    texts = all_sequences(length)
    ids = texts.repeat_interleave(len(maps), dim=0)
    step_map = torch.tensor(maps).repeat(len(texts), 1)
    rows = torch.zeros(len(ids), dtype=torch.int64)
    return Trajectory(ids, step_map, torch.zeros(ids.shape), rows + length, rows > 0, rows, False, None)


def path_number(trajectory: Trajectory) -> Tensor:
    digits = torch.cat([trajectory.ids, trajectory.step_map], dim=1)
    return (digits * 7 ** torch.arange(digits.size(1))).sum(dim=1)


def reveals(trajectory: Trajectory) -> tuple[int, ...]:
    """Tokens revealed in each step; the same in all rows."""
    counts = torch.stack(
        [(trajectory.step_map == step).sum(dim=1) for step in range(int(trajectory.step_map.max()) + 1)]
    )
    assert bool((counts == counts[:, :1]).all())
    return tuple(counts[:, 0].tolist())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_selection_replay_is_the_law_of_low_confidence_and_plain_replay_is_not(temperature):
    denoiser = TableDenoiser()
    generator = sampler(denoiser, LENGTH, steps=STEPS, selection="low_confidence", temperature=temperature)
    drawn = generator.generate(*prompts(20_000), rng(3))
    paths = all_paths(reveals(drawn))
    assert len(set(path_number(paths).tolist())) == len(paths) > 81

    def law(name: str, **options) -> Tensor:
        likelihood, masking = build(name, replay="all", **options)
        draws = draw(likelihood, masking, paths)
        return (-likelihood.score(denoiser, *prompts(len(paths)), paths.ids, draws, temperature).sequence_bound).exp()

    corrected, plain = law("selection_replay", temperature=temperature), law("trajectory_nelbo")
    assert corrected.sum().item() == pytest.approx(1.0, abs=2e-5)
    assert plain.sum().item() > 2.5, "the choice of positions is missing"
    position = {number: i for i, number in enumerate(path_number(paths).tolist())}
    counts = torch.bincount(torch.tensor([position[n] for n in path_number(drawn).tolist()]), minlength=len(paths))
    assert chi_square_excess(counts, corrected * len(drawn)) < 4
    assert chi_square_excess(counts, plain / plain.sum() * len(drawn)) > 50


def test_selection_replay_looks_at_the_block_only():
    denoiser = TableDenoiser()
    generator = sampler(denoiser, LENGTH, steps=4, selection="low_confidence", block_length=2)
    drawn = generator.generate(*prompts(4000), rng(5))
    first = drawn.step_map[:, :2].amax(dim=1) < drawn.step_map[:, 2:].amin(dim=1)
    assert bool(first.all()) and drawn.step_map.unique().numel() == 4
    paths = all_paths((1, 1, 1, 1))
    paths = paths[(paths.step_map[:, :2] < 2).all(dim=1)]

    def total(block_length: int | None) -> float:
        likelihood, masking = build("selection_replay", replay="all", block_length=block_length)
        draws = draw(likelihood, masking, paths)
        found = likelihood.score(denoiser, *prompts(len(paths)), paths.ids, draws)
        return (-found.sequence_bound).exp().sum().item()

    assert total(2) == pytest.approx(1.0, abs=2e-5)
    assert total(None) < 0.9


def test_drawn_steps_of_selection_replay_average_to_all_of_them():
    denoiser, trajectory = rollouts(4, "low_confidence")
    ids = trajectory.ids
    whole, masking = build("selection_replay", replay="all")
    exact = whole.score(denoiser, *prompts(4), ids, draw(whole, masking, trajectory)).sequence_bound
    one, _ = build("selection_replay", num_draws=1)
    samples = torch.stack(
        [
            one.score(denoiser, *prompts(4), ids, draw(one, masking, trajectory, seed)).sequence_bound
            for seed in range(300)
        ]
    )
    assert samples.std(dim=0).max() > 0.1
    assert_mean(samples, exact)


def test_an_impossible_choice_has_a_floor_and_no_gradient():
    likelihood = SelectionReplay(2, replay="all")
    ids = torch.zeros(1, 2, dtype=torch.int64)
    trajectory = Trajectory(
        ids,
        torch.tensor([[0, 1]]),
        torch.zeros(1, 2),
        torch.tensor([2]),
        torch.tensor([False]),
        ids[:, 0],
        False,
        None,
    )
    draws = draw(likelihood, DiffusionMaskingStrategy(0.0, 2), trajectory)
    # states in order: both hidden, the second one hidden. The first token was chosen though every token of the second
    # position is likelier than it.
    logits = torch.tensor([[-9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    found = likelihood.estimate(torch.log_softmax(logits, dim=1), ids, draws)
    assert found.per_token_logps[0, 0].item() == pytest.approx(
        torch.log_softmax(logits[0], 0)[0].item() + math.log(SelectionReplay.FLOOR), rel=1e-4
    )
    found.per_token_logps[0, 0].backward()
    assert torch.isfinite(logits.grad).all() and bool((logits.grad[1] == 0).all())
