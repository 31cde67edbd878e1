"""Exposure bias is what a hand computation on the same masks and walks says."""

from types import SimpleNamespace

import pytest
import torch
from benches import CANVAS, DRAWS, STEPS

from core.generator import DiffusionGenerator
from trainers.distributed.randomness import generator_at
from trainers.evaluating.statistics import paired_difference
from trainers.settings.objects import build_synced
from trainers.settings.options import ConfigError
from trainers.studies.measurements.exposure import measure_exposure, noised_references, references


def encode(policy, problems):
    """Prompts (B, P), their mask, and canvases (B, L), one row at a time."""
    tokenizer, rows = policy.tokenizer, []
    for prompt, completion in zip(problems["prompt"], problems["completion"], strict=True):
        rows.append((tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]))
    width, eos = max(len(prompt) for prompt, _ in rows), tokenizer.eos_token_id
    return (
        torch.tensor([[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt, _ in rows]),
        torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in rows]),
        torch.tensor([completion + [eos] * (CANVAS - len(completion)) for _, completion in rows]),
    )


@torch.no_grad()
def losses_by_hand(policy, prompts, mask, canvases, draws, schedule, temperature):
    """sum over draws and hidden tokens of -log p(x0) / (M mask_prob_t), from the model's own logits, (B,)."""
    total = torch.zeros(len(canvases), dtype=torch.float64)
    for m in range(DRAWS):
        shown = canvases[:, m] if canvases.dim() == 3 else canvases
        text = torch.where(draws.prompt_hidden[:, m] & mask.bool(), policy.mask_id, prompts)
        ids = torch.cat([text, torch.where(draws.hidden[:, m], policy.mask_id, shown)], dim=1)
        attention = torch.cat([mask, torch.ones_like(shown)], dim=1)
        logits = policy.model(input_ids=ids, attention_mask=attention).logits[:, prompts.size(1) :]
        logits[..., policy.mask_id] = -torch.inf
        logps = torch.log_softmax(logits / temperature, dim=-1)
        costs = -logps.gather(-1, draws.targets.unsqueeze(-1)).squeeze(-1) * draws.hidden[:, m]
        total += costs.sum(dim=1).double() / (DRAWS * schedule.mask_prob(draws.timestep[:, m]))
    return total


@pytest.mark.parametrize("offset", [1, 3, 100])
@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_exposure_row_equals_a_hand_computation(make_bench, make_policy, splits, offset, solver):
    policy, problems = make_policy(), splits["test"]
    bench = make_bench(policy, seed=3, scheduled_sampling_sampler=solver)
    (row,) = measure_exposure(bench, [offset]).rows

    loss, masking = build_synced(bench.args)
    prompts, mask, canvases = encode(policy, problems)
    drawn = loss.draw(masking, *canvases.shape, prompts.size(1), generator_at(3, "exposure", "masks", 0, 0))
    draws = SimpleNamespace(**vars(drawn), targets=canvases)
    start = torch.tensor([[max(t, min(t + offset, STEPS)) for t in row] for row in drawn.timestep.tolist()])
    assert bool((start > drawn.timestep).any()) and bool((start == drawn.timestep).any())

    # one walk of all states that move, in row-major order
    moving = start > drawn.timestep
    text = torch.where(drawn.prompt_hidden & mask.bool().unsqueeze(1), policy.mask_id, prompts.unsqueeze(1))
    walk = DiffusionGenerator(
        policy.denoiser(), loss.schedule, masking, CANVAS, sampler="ancestral", solver=solver, temperature=0.8
    )
    copies = canvases.unsqueeze(1).expand(-1, DRAWS, -1)
    policy.model.eval()
    noise = generator_at(3, "exposure", "walk", offset, 0)
    written = walk.denoise(
        text[moving], mask.unsqueeze(1).expand_as(text)[moving], copies[moving], drawn.u[moving],
        start[moving], drawn.timestep[moving], noise,
    ).ids  # fmt: skip
    rolled = copies.clone()
    rolled[moving] = torch.where(drawn.hidden[moving], copies[moving], written)
    own = (drawn.u >= loss.schedule.mask_prob(drawn.timestep).unsqueeze(2)) & (
        drawn.u < loss.schedule.mask_prob(start).unsqueeze(2)
    )

    at = (loss.schedule, 0.8)
    clean = losses_by_hand(policy, prompts, mask, canvases, draws, *at)
    biased = losses_by_hand(policy, prompts, mask, rolled, draws, *at)
    expected = paired_difference(clean.tolist(), biased.tolist(), problems["cluster"])
    assert row.offset == offset
    assert row.walked == pytest.approx((start - drawn.timestep).double().mean().item())
    assert row.clean == pytest.approx(clean.mean().item(), rel=1e-5)
    assert row.rolled_out == pytest.approx(biased.mean().item(), rel=1e-5)
    assert vars(row.bias) == pytest.approx(vars(expected), rel=1e-3, abs=1e-4)
    assert row.bias.low < row.bias.value < row.bias.high
    assert row.accuracy == pytest.approx((rolled == copies)[own].double().mean().item())
    assert 0 < row.accuracy < 1
    for name in ("clean", "rolled_out"):
        assert getattr(row, f"{name}_per_token") == pytest.approx(getattr(row, name) / CANVAS)
    assert vars(row.bias_per_token) == pytest.approx({key: value / CANVAS for key, value in vars(row.bias).items()})


def test_offset_0_has_exactly_no_bias_and_reveals_nothing(make_bench):
    (row,) = measure_exposure(make_bench(), [0]).rows
    assert row.clean == row.rolled_out > 0
    assert (row.bias.value, row.bias.low, row.bias.high) == (0.0, 0.0, 0.0)
    assert row.walked == 0 and row.accuracy is None


def test_a_model_that_sees_nothing_has_no_exposure_bias(make_bench, make_policy):
    """Uniform over all tokens but the mask, whatever stands there; equal masks leave no difference."""
    policy = make_policy()
    policy.model.model.embed_tokens.weight.data.zero_()
    (row,) = measure_exposure(make_bench(policy, p_mask_prompt=0.0), [3]).rows
    assert row.bias.value == row.bias.low == row.bias.high == 0.0
    # E[weight * hidden tokens] is the canvas: each costs log(V - 1)
    surprise = torch.tensor(len(policy.tokenizer) - 1.0).log().item()
    assert row.clean_per_token == pytest.approx(surprise, rel=0.15)
    assert row.accuracy == pytest.approx(0.0, abs=0.1)


def test_masks_are_the_same_for_every_offset_and_solver(make_bench):
    first, second = measure_exposure(make_bench(), [1, 4]).rows
    (alone,) = measure_exposure(make_bench(scheduled_sampling_sampler="euler"), [4]).rows
    assert first.clean == second.clean == alone.clean
    assert len({first.rolled_out, second.rolled_out, alone.rolled_out}) == 3


def test_repetitions_draw_anew_and_are_averaged_by_problem(make_bench, make_policy):
    policy = make_policy()
    bench = make_bench(policy, repeats=2, batch_size=7)  # 24 problems: 4 batches
    (row,) = measure_exposure(bench, [0]).rows
    loss, masking = build_synced(bench.args)
    noised = list(noised_references(bench, loss, masking))
    assert len(noised) == 8
    first, second = (
        torch.cat([loss.score(policy.denoiser(), *batch, draws, 0.8).sequence_bound for batch, draws in half])
        for half in (noised[:4], noised[4:])
    )
    assert len(first) == len(second) == 24 and not torch.equal(first, second)
    assert row.clean == pytest.approx(((first + second) / 2).mean().item())


def test_references_are_the_rows_that_sft_trains_on(make_bench, make_sft, splits):
    trainer = make_sft(max_completion_length=CANVAS)
    expected = trainer.data_collator([trainer.eval_dataset[i] for i in range(len(trainer.eval_dataset))])
    (found,) = references(make_bench(trainer.policy, problems=splits["validation"]))
    for part, key in zip(found, ("prompt_ids", "prompt_mask", "completion_ids"), strict=True):
        assert torch.equal(part, expected[key])


def test_references_longer_than_the_canvas_are_refused(make_bench):
    with pytest.raises(ConfigError, match=r"max_completion_length=8: the longest reference has 1\d tokens"):
        measure_exposure(make_bench(max_completion_length=8), [1])
