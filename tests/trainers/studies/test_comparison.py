"""The comparison of estimators: exact ones pass, wrong ones are found out, and the floor is a floor."""

import csv
import json
import math

import pytest
import torch

from core.generator import DiffusionGenerator
from core.likelihoods import ESTIMATORS
from core.masking_strategy import DiffusionMaskingStrategy
from core.nelbo import TrajectoryNELBOLoss
from trainers.settings.options import ConfigError
from trainers.studies.comparison import (
    SETTINGS,
    Comparison,
    Row,
    Variant,
    compare_gradients,
    reinforce_row,
    surrogate,
    variants,
)
from trainers.studies.comparison_report import tables, write
from trainers.studies.enumerable import (
    ANSWER_TOKENS,
    END,
    MASK,
    AnswerDenoiser,
    build_model,
    encode,
    fit,
    problems,
    rewards,
)

LENGTH, STEPS = 2, 2
EMPTY = Row("nobody", "", "", 1, 1, 0.0, 0.0, 0.0, 0.0, 0.0)


class Shrunk(TrajectoryNELBOLoss):
    """Exact replay that counts every token 0.8 times: wrong on purpose."""

    def draw_states(self, *args):
        drawn = super().draw_states(*args)
        return {**drawn, "weight": 0.8 * drawn["weight"]}


class Bench:
    """A comparison on answers of one digit, 121 canvases, with its exact gradient and batches."""

    def __init__(self, trained, **options):
        self.bound, masking, denoiser = trained
        self.generator = DiffusionGenerator(denoiser, masking.schedule, masking, LENGTH, **options)
        prompts, answers = (ids[10:40:10] for ids in problems(LENGTH))
        self.comparison = Comparison(
            self.generator, masking, list(denoiser.model.parameters()), prompts, answers, seed=0
        )
        self.target = self.comparison.target()
        self.batches = self.comparison.batches(self.target, 32, 24)
        self.reinforce = torch.stack([batch.reinforce for batch in self.batches])

    def variant(self, cls=TrajectoryNELBOLoss, **settings) -> Variant:
        return Variant("own", "", cls(**self.generator.schedule.params, **settings))

    def measure(self, variant: Variant) -> tuple[Row, torch.Tensor]:
        row, samples = self.comparison.likelihood(variant, 8, 4), self.comparison.gradients(variant, self.batches)
        return compare_gradients(row, samples, self.reinforce, self.target.gradient), samples


@pytest.fixture(scope="module")
def trained():
    """The bound after a short training, the schedule's masks and the model."""
    model = build_model(0)
    masking = DiffusionMaskingStrategy(0.0, STEPS, "linear")
    denoiser = AnswerDenoiser(model, MASK, head=model.lm_head)
    return fit(denoiser, masking, LENGTH, steps=60, seed=0).nelbo, masking, denoiser


@pytest.fixture(scope="module")
def bench(trained):
    return Bench(trained, selection="top1")


def assert_unbiased_along(samples: torch.Tensor, exact: torch.Tensor) -> None:
    """The mean projection on the exact gradient is its norm, within 4 standard errors."""
    along = samples.double() @ exact.double() / exact.norm().double()
    assert abs(along.mean() - exact.norm()) < 4 * along.std() / len(along) ** 0.5


def test_the_floor_is_unbiased(bench):
    row = reinforce_row(bench.batches, bench.target)
    assert not row.biased and row.gradient_std > 0.1
    assert_unbiased_along(bench.reinforce, bench.target.gradient)


def test_exact_replay_has_no_bias_and_no_noise_of_its_own(bench):
    row, samples = bench.measure(bench.variant(source="rollout", replay="all"))
    assert max(abs(row.bias), row.bias_rms, row.std) < 1e-5
    assert not row.biased and row.gradient_scale == pytest.approx(1.0, abs=1e-4)
    assert_unbiased_along(samples, bench.target.gradient)


def test_drawn_steps_are_unbiased_at_more_noise(bench):
    row, samples = bench.measure(bench.variant(source="rollout", replay="drawn", num_draws=1))
    assert row.bias_low < 0 < row.bias_high and row.std > 0.1
    assert not row.biased and row.gradient_std > reinforce_row(bench.batches, bench.target).gradient_std
    assert_unbiased_along(samples, bench.target.gradient)


def test_a_wrong_estimator_is_found_out(bench):
    row, _ = bench.measure(bench.variant(Shrunk, source="rollout", replay="all"))
    assert row.biased and row.bias_low > 0
    assert row.gradient_scale == pytest.approx(0.8, abs=0.1)
    assert row.cosine_of_mean == pytest.approx(1.0, abs=0.02)  # only its length is wrong


def test_low_confidence_replayed_with_the_probability_of_the_choice_is_unbiased():
    model = build_model(0)  # untrained: unsure of both places, so that the choice matters
    masking = DiffusionMaskingStrategy(0.0, STEPS, "linear")
    bench = Bench((math.nan, masking, AnswerDenoiser(model, MASK, head=model.lm_head)), selection="low_confidence")
    row, samples = bench.measure(bench.variant(ESTIMATORS["selection_replay"], replay="all"))
    assert not row.biased and row.bias_rms > 0.1  # of the path, not of the completion
    assert_unbiased_along(samples, bench.target.gradient)


def test_bias_and_spread_of_made_up_gradients_are_those_put_in():
    noise = torch.Generator().manual_seed(0)
    exact = torch.randn(50, generator=noise)
    exact /= exact.norm()
    direction = torch.randn(50, generator=noise)
    direction -= exact * (direction @ exact)
    reinforce = exact + torch.randn(400, 50, generator=noise)
    own = 0.1 * torch.randn(400, 50, generator=noise)

    fair = compare_gradients(EMPTY, reinforce + own, reinforce, exact)
    assert not fair.biased and fair.gradient_bias_floor < 0.04
    assert fair.gradient_std == pytest.approx(math.sqrt(50 * 1.01), rel=0.02)

    skewed = compare_gradients(EMPTY, reinforce + own + 0.5 * direction / direction.norm(), reinforce, exact)
    assert skewed.biased and skewed.gradient_bias == pytest.approx(0.5, abs=0.02)
    assert skewed.gradient_scale == pytest.approx(1.0, abs=0.02)
    assert skewed.cosine_of_mean == pytest.approx(1 / math.sqrt(1.25), abs=0.02)


def test_a_fair_estimator_is_seldom_called_biased():
    noise = torch.Generator().manual_seed(1)
    exact = torch.ones(1)
    rows = []
    for _ in range(500):  # one direction: the worst case for the normal approximation
        reinforce = torch.randn(60, 1, generator=noise)
        samples = reinforce + torch.randn(60, 1, generator=noise)
        rows.append(compare_gradients(EMPTY, samples, reinforce, exact))
    assert sum(row.biased for row in rows) <= 15
    assert sum(row.gradient_bias == 0 for row in rows) > 250  # the estimate of the square is centred, not positive


def test_negative_advantages_use_their_own_values(bench):
    variant, batch = bench.variant(ESTIMATORS["spg"]), bench.batches[0]
    found, _ = bench.comparison.score(variant.estimator, batch.prompt, batch.trajectory, torch.Generator())
    assert not torch.equal(found.negative_logps, found.per_token_logps)
    ones = torch.ones_like(batch.advantages)
    assert surrogate(found, ones).item() == pytest.approx(found.per_token_logps.sum(dim=1).mean().item(), abs=1e-5)
    assert surrogate(found, -ones).item() == pytest.approx(-found.negative_logps.sum(dim=1).mean().item(), abs=1e-5)


# ---- what is compared, and what is written --------------------------------------------------------------------------


def test_every_estimator_is_compared_in_every_setting(bench):
    found = variants(list(ESTIMATORS), [1, 2, 8], bench.generator)
    assert {variant.name for variant in found} == set(ESTIMATORS)
    assert len({variant.label for variant in found}) == len(found)
    for name, settings in SETTINGS.items():
        assert {" ".join(one.values()) for one in settings} == {v.settings for v in found if v.name == name}
    assert [v.draws for v in found if v.name == "coupled"] == [3, 3]
    assert [v.draws for v in found if v.settings == "rollout all"] == [None]
    with pytest.raises(ConfigError, match="two_step"):
        variants(["two_step"], [1], bench.generator)


def test_replays_are_not_asked_for_more_draws_than_there_are_tokens(bench):
    found = variants(["trajectory_nelbo", "rollout"], [1, 2, 8], bench.generator)
    assert max(v.draws for v in found if v.estimator.source == "rollout" and v.draws) <= LENGTH


def test_equal_seeds_give_equal_rows(bench):
    variant = bench.variant(num_draws=1)
    assert bench.comparison.likelihood(variant, 4, 3) == bench.comparison.likelihood(variant, 4, 3)
    assert torch.equal(*(bench.comparison.gradients(variant, bench.batches[:2]) for _ in range(2)))


def test_files_hold_every_column_and_what_was_not_measured_is_empty(tmp_path, bench):
    full, _ = bench.measure(bench.variant(num_draws=1))
    paths = write(tmp_path, [reinforce_row(bench.batches, bench.target), full, EMPTY], {"seed": 3})
    assert [path.name for path in paths] == ["estimators.csv", "estimators.json", "estimators.png"]
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == Row.columns() and float(rows[1]["bias"]) == full.bias
    assert rows[0]["forwards"] == "" and rows[2]["gradient_std"] == ""
    record = json.loads(paths[1].read_text())
    assert record["seed"] == 3 and record["rows"][2]["gradient_std"] is None
    assert paths[2].stat().st_size > 10_000
    assert [len(tables(some)) for some in ([full], [EMPTY])] == [2, 1]


# ---- the enumerable task --------------------------------------------------------------------------------------------


def test_answers_are_right_and_end_on_the_canvas():
    prompts, answers = problems(4)
    assert len(prompts) == 2 * 100 * 10
    at = (prompts == encode(["37*5="])).all(dim=1)
    assert torch.equal(answers[at], encode(["185."]))
    assert bool((answers[:, -1] == END).all()) and bool((answers <= END).all())
    assert len(problems(2)[0]) < len(problems(3)[0]) < len(prompts)
    with pytest.raises(ValueError, match="--length 1"):
        problems(1)


def test_reward_is_for_the_whole_answer_and_a_little_for_its_places():
    answer = encode(["185."])
    assert rewards(encode(["185.", "184.", "0000"]), answer).tolist() == pytest.approx([1.0, 0.15, 0.0])


def test_training_lowers_the_bound_and_only_answer_tokens_can_be_written(bench):
    assert bench.bound < 0.75 * LENGTH * math.log(len(ANSWER_TOKENS))
    _, trajectory = bench.comparison.roll_out(50, "any")
    assert trajectory.ids.max() <= END
