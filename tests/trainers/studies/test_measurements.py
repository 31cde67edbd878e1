"""The tables of a bench say what a hand computation on the same masks and the evaluator on the same noise say."""

import runpy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from paths import SCRIPTS

from core.alpha_schedule import SCHEDULES
from core.flow.flow_matching import ODE_SOLVERS
from core.generator import DiffusionGenerator
from core.sampling.solvers import SOLVERS
from trainers.distributed.randomness import generator_at
from trainers.evaluating.evaluation import Evaluator
from trainers.evaluating.statistics import clustered_mean, paired_difference
from trainers.settings.objects import build_synced
from trainers.settings.trainer import ConfigError, DiffusionSFTConfig
from trainers.studies.measurements import FULL, Bench, sampling_arguments
from trainers.tasks.verdicts import Verdict

CANVAS, STEPS, DRAWS = 16, 5, 3
SCRIPT = SCRIPTS / "measure_sampling.py"
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def verify(completion, answer):
    """Something that random text gets right now and then."""
    ok = len(completion) % 2 == 0
    return Verdict(strict=ok, lenient=ok)


@pytest.fixture
def make_args(tmp_path):
    def build(**overrides):
        base = {
            "output_dir": str(tmp_path),
            "max_timesteps": STEPS,
            "max_completion_length": CANVAS,
            "num_draws": DRAWS,
            "p_mask_prompt": 0.2,
            "temperature": 0.8,
            "report_to": "none",
        }
        return DiffusionSFTConfig(**(base | overrides))

    return build


@pytest.fixture
def make_bench(make_args, make_policy, splits):
    def build(policy=None, seed=0, repeats=1, batch_size=128, problems=None, **overrides):
        problems, task = problems or splits["test"], SimpleNamespace(verify=verify)
        return Bench(make_args(**overrides), policy or make_policy(), task, problems, seed, repeats, batch_size)

    return build


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
    (row,) = bench.exposure([offset]).rows

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
    (row,) = make_bench().exposure([0]).rows
    assert row.clean == row.rolled_out > 0
    assert (row.bias.value, row.bias.low, row.bias.high) == (0.0, 0.0, 0.0)
    assert row.walked == 0 and row.accuracy is None


def test_a_model_that_sees_nothing_has_no_exposure_bias(make_bench, make_policy):
    """Uniform over all tokens but the mask, whatever stands there; equal masks leave no difference."""
    policy = make_policy()
    policy.model.model.embed_tokens.weight.data.zero_()
    (row,) = make_bench(policy, p_mask_prompt=0.0).exposure([3]).rows
    assert row.bias.value == row.bias.low == row.bias.high == 0.0
    # E[weight * hidden tokens] is the canvas: each costs log(V - 1)
    surprise = torch.tensor(len(policy.tokenizer) - 1.0).log().item()
    assert row.clean_per_token == pytest.approx(surprise, rel=0.15)
    assert row.accuracy == pytest.approx(0.0, abs=0.1)


def test_masks_are_the_same_for_every_offset_and_solver(make_bench):
    first, second = make_bench().exposure([1, 4]).rows
    (alone,) = make_bench(scheduled_sampling_sampler="euler").exposure([4]).rows
    assert first.clean == second.clean == alone.clean
    assert len({first.rolled_out, second.rolled_out, alone.rolled_out}) == 3


def test_repetitions_draw_anew_and_are_averaged_by_problem(make_bench, make_policy):
    policy = make_policy()
    bench = make_bench(policy, repeats=2, batch_size=7)  # 24 problems: 4 batches
    (row,) = bench.exposure([0]).rows
    loss, masking = build_synced(bench.args)
    noised = list(bench._noised(loss, masking))
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
    (found,) = make_bench(trainer.policy, problems=splits["validation"])._references()
    for part, key in zip(found, ("prompt_ids", "prompt_mask", "completion_ids"), strict=True):
        assert torch.equal(part, expected[key])


def test_references_longer_than_the_canvas_are_refused(make_bench):
    with pytest.raises(ConfigError, match=r"max_completion_length=8: the longest reference has 1\d tokens"):
        make_bench(max_completion_length=8).exposure([1])


# ---- steps ----------------------------------------------------------------------------------------------------------


def endless(policy):
    """The policy without its EOS."""

    def silence(module, args, logits):
        logits[..., policy.tokenizer.eos_token_id] = -1e4

    policy.model.lm_head.register_forward_hook(silence)
    return policy


@every_schedule
@pytest.mark.parametrize("block_length", [None, 4])
def test_full_reveals_one_token_at_a_time(make_bench, make_policy, schedule, block_length):
    blocks = CANVAS // (block_length or CANVAS)
    options = {"alpha_schedule": schedule, "block_length": block_length, "max_timesteps": 4 * blocks}
    bench = make_bench(endless(make_policy()), **options)
    (steps,) = bench.counts([FULL]).values()
    assert steps // blocks in {2**n for n in range(12)}
    (half, row) = bench.steps({"half": steps // 2, FULL: steps}).rows
    assert row.sampled.forwards == row.greedy.forwards == CANVAS
    assert half.sampled.forwards < CANVAS, "the smallest such number"
    assert "(full)" in row.cells()[0]


def test_full_is_left_out_where_the_ends_of_the_schedule_reveal_several_tokens(make_bench):
    wide = {"max_completion_length": 256}
    bench = make_bench(**wide)
    counts = bench.counts([FULL])
    assert counts == {FULL: None}
    found = bench.steps(counts)
    assert not found.rows and "alpha_min=0.01, alpha_max=0.99" in found.notes[0]
    assert not bench.solvers(counts).rows
    assert make_bench(alpha_min=0.0, alpha_max=1.0, **wide).counts([FULL])[FULL] >= 256


def test_row_at_the_experiments_own_steps_is_its_evaluation(make_bench, make_policy, splits):
    policy = make_policy()
    bench = make_bench(policy, seed=5, selection="margin")
    few, own = bench.steps(bench.counts([2, STEPS])).rows
    loss, masking = build_synced(bench.args)
    evaluator = Evaluator(bench.args, loss.schedule, masking, bench.task, splits["test"], seed=5)
    for mode, outcome in evaluator.both(policy).items():
        found = getattr(own, mode)
        assert found.accuracy == outcome.accuracy("strict")
        assert found.forwards == outcome.forwards
    assert (few.label, few.steps) == ("2", 2) and few.greedy.forwards < own.greedy.forwards


def test_repetitions_average_each_problem_over_sampling_seeds(make_bench, make_policy, splits):
    policy = make_policy()
    bench = make_bench(policy, seed=5, repeats=3)
    (row,) = bench.steps({"2": 2}).rows
    args = replace(sampling_arguments(bench.args), max_timesteps=2)
    loss, masking = build_synced(args)
    runs = [
        Evaluator(args, loss.schedule, masking, bench.task, splits["test"], seed).run(policy, 0.8)
        for seed in (5, 6, 7)
    ]
    right = torch.tensor([run.strict for run in runs]).double().mean(dim=0)
    assert len({tuple(run.strict) for run in runs}) == 3
    assert vars(row.sampled.accuracy) == pytest.approx(vars(clustered_mean(right.tolist(), splits["test"]["cluster"])))
    assert row.sampled.forwards == pytest.approx(sum(run.forwards for run in runs) / 3)


def test_steps_that_blocks_do_not_divide_are_refused(make_bench):
    bench = make_bench(block_length=4, max_timesteps=4)
    with pytest.raises(ConfigError, match=r"divides generation\.steps=6"):
        bench.counts([4, 6])


# ---- solvers --------------------------------------------------------------------------------------------------------


def test_a_step_costs_more_with_rk4_than_with_unipc_than_with_euler(make_bench, make_policy):
    bench = make_bench(endless(make_policy()))
    rows = bench.solvers(bench.counts([2, 4])).rows
    cost = {(row.solver, row.steps): row.sampled.forwards for row in rows}
    assert set(cost) == {(solver, steps) for solver in SOLVERS for steps in (2, 4)}
    for steps in (2, 4):
        euler, dpm, unipc, rk4 = (cost[name, steps] for name in ("euler", "dpm", "unipc", "rk4"))
        assert euler == dpm < unipc < rk4 <= 4 * euler
    assert [row.sampled.forwards for row in rows] == sorted(cost.values()), "neighbours can be compared"


def test_equal_numbers_of_steps_are_measured_once(make_bench):
    bench = make_bench()
    assert len(bench.solvers({"2": 2, FULL: 2}).rows) == len(SOLVERS)
    assert len(bench.exposure([1, 1]).rows) == 1


@pytest.mark.parametrize("table", ["exposure", "solvers"])
def test_masks_without_timesteps_are_refused(make_bench, make_args, grpo_args, table):
    args = grpo_args(masking_strategy_type="full", max_completion_length=CANVAS)
    bench = replace(make_bench(), args=args)
    with pytest.raises(ConfigError, match=r"masking\.strategy_type='full'"):
        bench.exposure([1]) if table == "exposure" else bench.solvers({"2": 2})
    assert bench.steps({"2": 2}).rows, "counts need no timesteps"


def test_a_config_for_rollouts_and_another_sampler_can_be_measured(make_bench, grpo_args):
    args = grpo_args(max_completion_length=CANVAS, sampler="ancestral", solver="unipc")
    assert args.nelbo_source == "rollout"
    bench = replace(make_bench(), args=args)
    assert bench.exposure([1]).rows and bench.steps({"2": 2}).rows and bench.solvers({"2": 2}).rows


# ---- flow matching --------------------------------------------------------------------------------------------------


def test_a_flow_is_measured_by_its_ode(make_bench):
    bench = make_bench(prediction_type="flow_matching", solver="unipc")
    exposure = bench.exposure([1])
    assert not exposure.rows and "a flow hides no tokens" in exposure.notes[0]

    counts = bench.counts([2, 4, FULL])
    steps = bench.steps(counts)
    assert [row.steps for row in steps.rows] == [2, 4] and "unipc" in steps.title
    assert steps.notes == ["full is left out: a flow moves all tokens at once"]

    rows = bench.solvers(counts).rows
    by = {(row.solver, row.steps): row.sampled for row in rows}
    assert set(by) == {(solver, steps) for solver in ODE_SOLVERS for steps in (2, 4)}
    for row in steps.rows:
        same = by["unipc", row.steps]
        assert (row.sampled.accuracy, row.sampled.forwards) == (same.accuracy, same.forwards)
        assert by["rk4", row.steps].forwards > by["euler", row.steps].forwards


# ---- all tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_policy_and_global_randomness_are_left_as_they_were(make_bench, make_policy, training):
    policy = make_policy()
    policy.model.train(training)
    modes = []
    policy.model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    before = torch.get_rng_state()
    bench = make_bench(policy)
    bench.exposure([2]), bench.steps({"2": 2}), bench.solvers({"2": 2})
    assert policy.model.training is training
    assert modes and not any(modes), "measured in eval mode"
    assert torch.equal(torch.get_rng_state(), before)


def test_measurements_repeat(make_bench):
    def numbers():
        bench = make_bench(seed=1)
        found = [bench.exposure([2]), bench.steps({"2": 2}), bench.solvers({"2": 2})]
        texts = [row.cells() for table in found for row in table.rows]
        return [text[:-1] for text in texts]  # seconds come last

    assert numbers() == numbers()


def test_rows_have_a_cell_for_every_heading(make_bench):
    bench = make_bench()
    for found in (bench.exposure([0, 1]), bench.steps({"2": 2}), bench.solvers({"2": 2})):
        assert all(len(row.cells()) == len(row.HEADINGS) for row in found.rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--steps", "4", "fast"], "argument --steps: 'fast' is neither a number of steps, at least 1, nor 'full'"),
        (["--steps", "0"], "argument --steps: '0' is neither"),
        (["--steps", "-4"], "argument --steps: '-4' is neither"),
        (["--steps", "2.5"], "argument --steps: '2.5' is neither"),
        (["--offsets", "-1"], "argument --offsets: '-1' is not a whole number of at least 0"),
        (["--repeats", "0"], "argument --repeats: '0' is not a whole number of at least 1"),
        (["--tables", "speed"], "argument --tables: invalid choice: 'speed'"),
        (["--split", "dev"], "argument --split: invalid choice: 'dev'"),
    ],
)
def test_bad_options_are_refused_by_name(arguments, message):
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(ConfigError) as refused:
        main(["nowhere.yaml", *arguments])
    assert str(refused.value).startswith(message)
