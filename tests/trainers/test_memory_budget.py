"""What a scoring step may hold: its peak does not grow with the draws when streamed, and keeps to a budget."""

import pytest
import torch
from accelerate import Accelerator

from core.likelihoods import ESTIMATORS
from core.scoring import Draws
from trainers.benchmarking.memory import peak_memory
from trainers.memory_budget import GIB, MemoryBudget, StepMemory, choose_states, most_within
from trainers.settings.diffusion import DiffusionArguments
from trainers.settings.options import ConfigError

PROMPT, LENGTH, ROWS = 10, 14, 4


@pytest.fixture
def scoring(grpo_args, make_policy):
    """The options of a run, its likelihood and its model."""

    def build(**options):
        args = grpo_args(per_device_train_batch_size=ROWS, **options)
        args.max_completion_length = LENGTH
        return args, ESTIMATORS[args.likelihood](**args.likelihood_arguments), make_policy().denoiser()

    return build


def step_peak(likelihood, denoiser, draws_per_row, group):
    """Peak bytes of forward and backward on fully masked states."""
    ids = torch.full((ROWS, 8 * LENGTH), 5)
    prompt_ids = ids[:, :PROMPT]
    hidden = torch.ones(ROWS, draws_per_row, 8 * LENGTH, dtype=torch.bool)
    nothing = torch.zeros(ROWS, draws_per_row, PROMPT, dtype=torch.bool)
    draws = Draws(hidden, hidden, nothing, torch.ones(ROWS, draws_per_row), torch.ones(ROWS))
    likelihood.states_per_forward = group

    def step():
        found = likelihood.score(denoiser, prompt_ids, torch.ones_like(prompt_ids), ids, draws)
        found.per_token_logps.sum().backward()

    denoiser.model.zero_grad(set_to_none=True)
    return peak_memory(step)


def test_peak_of_a_streamed_step_does_not_grow_with_the_draws(scoring):
    _, likelihood, denoiser = scoring(likelihood="monte_carlo")
    step_peak(likelihood, denoiser, 1, None)  # the first step of all
    streamed = [step_peak(likelihood, denoiser, draws, 2) for draws in (2, 8)]
    packed = [step_peak(likelihood, denoiser, draws, None) for draws in (2, 8)]
    assert streamed[1] < 1.1 * streamed[0] < 1.1 * packed[0]
    assert packed[1] > 3 * packed[0]


# --- the choice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [10, 13, 40, 99.5, 1000])
def test_the_number_that_fits_keeps_to_the_budget_though_the_peak_moves(budget):
    def peak(states):  # the head's chunk, the attention of the last layer, the embeddings
        return max(8 + 2 * states, 3 * states - 5, 5 * states - 100)

    count = most_within(peak, budget, wanted=50)
    assert peak(count) <= budget
    assert count == 50 or peak(count + 1) > budget * 0.75, "and most of the budget is used"


def test_all_fit_where_a_state_costs_nothing():
    assert most_within(lambda states: 7.0, 7.0, 20) == 20


def test_a_chosen_number_of_states_is_measured_to_keep_to_the_budget(scoring):
    args, likelihood, denoiser = scoring(likelihood="monte_carlo", num_draws=4, memory_budget_gib=1.0)
    peak = StepMemory(likelihood, denoiser, PROMPT, LENGTH)
    args.memory_budget_gib = peak(5) / GIB
    line = choose_states(args, likelihood, denoiser, PROMPT)
    assert 3 <= likelihood.states_per_forward <= 5 and likelihood.num_draws == 4
    assert peak(likelihood.states_per_forward) <= peak(5)
    assert f"{likelihood.states_per_forward} states a forward, 4 draws" in line and "\n" not in line
    assert all(parameter.grad is None for parameter in denoiser.model.parameters())


def test_all_states_go_into_one_forward_where_they_fit(scoring):
    args, likelihood, denoiser = scoring(likelihood="monte_carlo", memory_budget_gib=1.0)
    assert "all states in one forward, 2 draws" in choose_states(args, likelihood, denoiser, PROMPT)
    assert likelihood.states_per_forward is None


def test_a_budget_below_one_state_names_what_one_needs(scoring):
    args, likelihood, denoiser = scoring(memory_budget_gib=1e-5)
    with pytest.raises(
        ConfigError, match=r"loss.memory_budget_gib=1e-05: one state of 10 \+ 14 tokens needs 0.00\d+ GiB"
    ):
        choose_states(args, likelihood, denoiser, PROMPT)


@pytest.mark.parametrize(
    ("name", "most", "fits", "drawn"),
    [
        ("monte_carlo", 8, 5, 5),
        ("monte_carlo", 8, 100, 8),
        ("monte_carlo", 8, 1, 2),  # the estimator's own number, streamed
        ("coupled", 8, 100, 7),  # odd
        ("complementary", 9, 7, 6),  # even
    ],
)
def test_draws_are_as_many_as_fit_beside_one_another(scoring, monkeypatch, name, most, fits, drawn):
    args, likelihood, denoiser = scoring(likelihood=name, memory_budget_gib=1.0, max_draws=most)
    monkeypatch.setattr(StepMemory, "__call__", lambda self, states: states * GIB / (fits * ROWS + 0.5))
    choose_states(args, likelihood, denoiser, PROMPT)
    assert likelihood.num_draws == drawn and likelihood.allowed_draws() is None
    assert (likelihood.states_per_forward is None) is (drawn <= fits)


def test_a_limit_of_draws_below_the_estimators_own_is_refused(scoring):
    args, likelihood, denoiser = scoring(likelihood="coupled", memory_budget_gib=1.0, max_draws=2)
    with pytest.raises(ConfigError, match=r"loss.max_draws=2: expected at least 3"):
        choose_states(args, likelihood, denoiser, PROMPT)


# --- in a run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"states_per_forward": 0}, "loss.states_per_forward=0: expected at least 1"),
        ({"memory_budget_gib": 0.0}, "loss.memory_budget_gib=0.0: expected a finite number above 0"),
        ({"memory_budget_gib": 2.0, "states_per_forward": 3}, "loss.states_per_forward=3: expected unset beside"),
        ({"max_draws": 4}, "loss.max_draws=4: only with loss.memory_budget_gib"),
        ({"memory_budget_gib": 2.0, "max_draws": 4, "num_draws": 2}, "loss.num_draws=2: expected unset beside"),
        ({"memory_budget_gib": 2.0, "max_draws": 4, "nelbo_replay": "all"}, "loss.max_draws=4: expected unset"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DiffusionArguments(**options).check_diffusion()


@pytest.mark.parametrize("options", [{"states_per_forward": 3}, {"memory_budget_gib": 0.002, "max_draws": 4}], ids=str)
def test_a_run_in_groups_trains_as_one_that_is_not(make_watching, capsys, options):
    run = {"likelihood": "monte_carlo", "max_steps": 2, "num_iterations": 2, "optim": "sgd"}
    grouped = make_watching(**run, **options)
    grouped.train()
    assert ("memory budget" in capsys.readouterr().out) is ("memory_budget_gib" in options)
    whole = make_watching(**run, num_draws=grouped.likelihood.num_draws)
    whole.train()
    assert whole.likelihood.states_per_forward is None is not grouped.likelihood.states_per_forward
    weights = [torch.cat([p.detach().flatten() for p in side.model.parameters()]) for side in (grouped, whole)]
    assert torch.allclose(*weights, atol=1e-5)


def test_fine_tuning_in_groups_is_that_of_all_at_once(make_sft):
    sides = []
    for options in ({}, {"states_per_forward": 3}, {"memory_budget_gib": 0.003}):
        trainer = make_sft(optim="sgd", num_draws=2, **options)
        trainer.train()
        assert (options == {}) is (trainer.nelbo_loss.states_per_forward is None)
        sides.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.allclose(sides[0], sides[1], atol=1e-5) and torch.allclose(sides[0], sides[2], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"prediction_type": "flow_matching"},
        {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_probability": 0.5},
    ],
    ids=["flow", "scheduled sampling"],
)
def test_losses_that_are_not_scored_in_groups_refuse_them(make_sft, options):
    with pytest.raises(ConfigError, match=r"loss.states_per_forward=3: only with masked text and no scheduled"):
        make_sft(states_per_forward=3, **options)


def test_a_budget_is_settled_once_and_only_where_there_is_one(make_policy, grpo_args, capsys):
    policy, asked = make_policy(), []
    for options, chosen in (({}, 0), ({"memory_budget_gib": 4.0}, 1)):
        args = grpo_args(per_device_train_batch_size=ROWS, **options)
        likelihood = ESTIMATORS[args.likelihood](**args.likelihood_arguments)
        memory = MemoryBudget(args, likelihood, policy, Accelerator(cpu=True))
        for _ in range(2):
            memory.settle(policy.model, lambda: asked.append(1) or PROMPT)
        assert memory.settled and len(asked) == chosen
        assert capsys.readouterr().out.count("memory budget 4 GiB") == chosen
