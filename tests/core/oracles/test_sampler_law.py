"""The exact law of the production sampler: normalised, what it samples, and the gradient that it claims."""

import pytest
import torch
from toys import PROMPT, TableDenoiser, chi_square_excess, number, prompts, rng, sampler, synced

from core.alpha_schedule import SCHEDULES
from core.generator import DiffusionGenerator
from core.oracles.exact import conditional_logps, exact_log_likelihood
from core.oracles.sampler_law import (
    SAMPLER_LAWS,
    SELECTION_LAWS,
    StateTable,
    all_completions,
    expected_reward,
    log_likelihoods,
    state_table,
)
from core.sampling import SELECTIONS

LENGTH, TOKENS = 4, torch.arange(3)
ALL = all_completions(TOKENS, LENGTH)
RULES = {rule: {"selection": rule} for rule in SELECTIONS} | {"ancestral": {"sampler": "ancestral"}}
every_rule = pytest.mark.parametrize("rule", RULES)
ONE_PATH = ("top1", "entropy", "margin")  # the state decides, so a completion has one path


def law(generator: DiffusionGenerator, completions: torch.Tensor = ALL) -> torch.Tensor:
    return log_likelihoods(state_table(generator, PROMPT, completions), generator)


class SmoothDenoiser(TableDenoiser):
    """The same logits as a float64 function of ``position``, which asks for a gradient."""

    def __init__(self):
        super().__init__()
        self.token, self.position = self.token.double(), self.position.double().requires_grad_()


@pytest.mark.parametrize("block_length", [2, 4])
@pytest.mark.parametrize("name", SCHEDULES)
@every_rule
def test_probabilities_sum_to_one(rule, name, block_length):
    for steps, temperature in ((2, 1.0), (4, 0.7), (16, 1.4)):
        options = {**RULES[rule], "block_length": block_length, "temperature": temperature}
        logps = law(sampler(TableDenoiser(), LENGTH, name, steps, **options))
        assert logps.exp().sum().item() == pytest.approx(1.0, abs=1e-9)


def test_every_selection_rule_has_a_law():
    assert set(SELECTION_LAWS) == {rule.score for rule in SELECTIONS.values()}
    assert len(SAMPLER_LAWS) == 2


@pytest.mark.parametrize("name", SCHEDULES)
def test_ancestral_law_is_the_oracle_of_the_bound(name):
    generator = sampler(TableDenoiser(), LENGTH, name, 5, sampler="ancestral")
    tables = [conditional_logps(TableDenoiser(), PROMPT, ids) for ids in ALL]
    expected = torch.stack([exact_log_likelihood(table, generator.schedule) for table in tables])
    torch.testing.assert_close(law(generator), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"block_length": 2}, {"block_length": 2, "temperature": 0.7}], ids=str
)
@every_rule
def test_the_production_sampler_follows_the_law(rule, options):
    rows = 20_000
    generator = sampler(TableDenoiser(), LENGTH, "linear", 4, **RULES[rule], **options)
    drawn = generator.generate(*prompts(rows), rng())
    counts = torch.bincount(number(drawn.ids), minlength=len(ALL))
    assert chi_square_excess(counts, law(generator).exp() * rows) < 4


def test_the_chi_square_tells_the_rules_apart():
    rows = 20_000
    generators = {rule: sampler(TableDenoiser(), LENGTH, "linear", 2, **RULES[rule]) for rule in RULES}
    laws = {rule: law(generator).exp() for rule, generator in generators.items()}
    counts = torch.bincount(number(generators["low_confidence"].generate(*prompts(rows), rng()).ids), minlength=81)
    excess = {rule: chi_square_excess(counts, probability * rows) for rule, probability in laws.items()}
    assert min(value for rule, value in excess.items() if rule != "low_confidence") > 40, excess


@every_rule
def test_some_completions_have_the_law_of_all(rule):
    generator = sampler(TableDenoiser(), LENGTH, "cosine", 4, **RULES[rule], block_length=2)
    torch.testing.assert_close(law(generator, ALL[5:70:7]), law(generator)[5:70:7], rtol=0, atol=1e-12)


@every_rule
def test_gradient_of_the_expected_reward_is_the_score_function_one_and_the_slope(rule):
    """A sum over the enumerated score function, autograd through the law, and a central difference agree."""
    denoiser = SmoothDenoiser()
    rewards = torch.rand(len(ALL), generator=rng(3), dtype=torch.float64)
    generator = sampler(denoiser, LENGTH, "linear", 2, **RULES[rule], temperature=0.7)

    logps = law(generator)
    (autograd,) = torch.autograd.grad(expected_reward(logps, rewards), denoiser.position, retain_graph=True)
    probability = logps.detach().exp()
    centred = rewards - probability @ rewards
    (score_function,) = torch.autograd.grad(logps, denoiser.position, grad_outputs=probability * centred)
    torch.testing.assert_close(score_function, autograd, rtol=0, atol=1e-12)

    direction = torch.randn(denoiser.position.shape, generator=rng(4), dtype=torch.float64)
    start, values = denoiser.position.detach(), []
    for step in (1e-5, -1e-5):
        denoiser.position = start + step * direction
        values.append(expected_reward(law(generator), rewards).item())
    slope = (values[0] - values[1]) / 2e-5
    assert (autograd * direction).sum().item() == pytest.approx(slope, abs=1e-8)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("block_length", [2, 4])
@pytest.mark.parametrize("rule", SELECTIONS)
def test_recorded_commits_multiply_to_the_law_where_a_completion_has_one_path(rule, block_length):
    options = {**RULES[rule], "block_length": block_length, "temperature": 0.7}
    generator = sampler(TableDenoiser(), LENGTH, "linear", 4, **options)
    trajectory = generator.generate(*prompts(2000), rng())
    gap = law(generator)[number(trajectory.ids)] - trajectory.commit_logps.double().sum(dim=1)
    assert (gap.abs().max() < 1e-5) == (rule in ONE_PATH)
    if rule == "low_confidence":
        # The product forgets that the others lost and the other paths: nats a completion, over the sampler's own.
        assert gap.mean().item() == pytest.approx({2: -0.11, 4: -0.36}[block_length], abs=0.08)


@every_rule
def test_replay_of_all_steps_has_the_gradient_of_the_law_where_a_completion_has_one_path(rule):
    denoiser = SmoothDenoiser()
    generator = sampler(denoiser, LENGTH, "linear", 2, **RULES[rule])
    trajectory = sampler(TableDenoiser(), LENGTH, "linear", 2, **RULES[rule]).generate(*prompts(8), rng())
    masking, loss = synced("linear", 2, source="rollout", replay="all")
    bound = loss(denoiser, masking, *prompts(8), trajectory.ids, rng(), trajectory).sequence_bound
    weights = torch.rand(8, generator=rng(1), dtype=torch.float64)
    (replayed,) = torch.autograd.grad(-(bound @ weights.to(bound.dtype)), denoiser.position)
    (exact,) = torch.autograd.grad(law(generator, trajectory.ids) @ weights, denoiser.position)
    difference = ((replayed - exact).norm() / exact.norm()).item()
    assert difference < 1e-6 if rule in ONE_PATH else difference > 0.05


# ---- what has no law here -------------------------------------------------------------------------------------------


def table_for(**options) -> StateTable:
    return state_table(sampler(TableDenoiser(), LENGTH, **options), PROMPT, ALL[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "renoise"}, "count_matched, ancestral"),
        ({"sampler": "ancestral", "solver": "rk4"}, "allowed: euler"),
        ({"eos_id": 2}, "eos_id=2"),
        ({"temperature": 0.5}, "temperature 1.0 and 4 tokens"),
    ],
    ids=str,
)
def test_a_law_that_is_not_the_generators_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        log_likelihoods(table_for(), sampler(TableDenoiser(), LENGTH, **options))


def test_completions_without_a_likelihood_are_refused():
    generator = sampler(TableDenoiser(), LENGTH)
    with pytest.raises(ValueError, match="canvas_length=4"):
        state_table(generator, PROMPT, ALL[:, :3])
    with pytest.raises(ValueError, match="mask token 3"):
        state_table(generator, PROMPT, torch.tensor([[0, 1, 2, 3]]))
    with pytest.raises(ValueError, match="greedy"):
        table_for(temperature=0.0)
