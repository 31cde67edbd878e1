"""DPO on bounds: TRL's loss of the differences between policy and reference, on states that both share."""

import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from processes import train_and_save
from resumes import SAVING, assert_resumes_bit_by_bit
from torch.nn import functional

from core.likelihoods import ESTIMATORS
from core.masking_strategy import DiffusionMaskingStrategy
from core.oracles.exact import any_order_average, conditional_logps, exact_log_likelihood, exact_nelbo, subsets
from core.scoring import Likelihood
from trainers.distributed.randomness import generator_at
from trainers.dpo.collating import PairCollator
from trainers.dpo.trainer import DiffusionDPOTrainer
from trainers.models.policy import Policy
from trainers.reporting.report import write_report
from trainers.settings.dpo import NOT_FOR_PAIRS, DiffusionDPOConfig
from trainers.settings.options import ConfigError
from trainers.studies.estimators.enumerable import MASK, AnswerDenoiser, build_model, encode

CANVAS = 4  # short enough to enumerate
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
# one transition, from everything masked to nothing: the bound is the likelihood, and nothing is left to chance
ONE_STATE = {"max_timesteps": 1, "alpha_min": 0.0, "alpha_max": 1.0, "num_draws": 1}
FOR_PAIRS = [name for name in ESTIMATORS if name not in NOT_FOR_PAIRS]


@pytest.fixture
def pairs():
    texts = [("7", "12"), ("35", "4"), ("", "9"), ("101", "11"), ("20", "2"), ("8", "64"), ("5", "55"), ("31", "13")]
    rows = [{"prompt": f"How many is {i}?\n", "chosen": a, "rejected": b} for i, (a, b) in enumerate(texts)]
    return Dataset.from_list(rows)


@pytest.fixture
def dpo_args(tmp_path):
    def build(**overrides):
        base = {
            "output_dir": str(tmp_path / "dpo"),
            "max_timesteps": 4,
            "max_completion_length": CANVAS,
            "p_mask_prompt": 0.0,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 0,
        }
        return DiffusionDPOConfig(**(base | overrides))

    return build


@pytest.fixture
def make_dpo(make_policy, dpo_args, pairs):
    def build(*, policy=None, cls=DiffusionDPOTrainer, train=None, peft_config=None, **overrides):
        train = pairs if train is None else train
        policy = policy or make_policy()
        return cls(policy, dpo_args(**overrides), train, pairs, peft_config=peft_config)

    return build


def batch_of(trainer):
    return next(iter(trainer.get_train_dataloader()))


def move(model, by=0.3, seed=1):
    """Change the weights of the policy, but not of its reference."""
    generator = generator_at(seed, "moved")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += by * weight.std().clamp(min=0.1) * torch.randn(weight.shape, generator=generator)


def loss_of(trainer, batch):
    """The loss and the margin of a training step."""
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    return loss, trainer._metrics["train"]["rewards/margins"][-1]


# ---- the batch ------------------------------------------------------------------------------------------------------


def test_batch_holds_prompts_above_each_other_and_texts_with_an_eos_tail():
    rows = [
        {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 1], "rejected_ids": [9, 9, 9, 1]},
        {"prompt_ids": [5], "chosen_ids": [1], "rejected_ids": [8, 9, 1]},
    ]
    batch = PairCollator(canvas_length=3, pad_id=0, eos_id=1)(rows)
    assert batch["input_ids"].tolist() == [
        [5, 6, 7, 8, 1, 1],
        [0, 0, 5, 1, 1, 1],
        [5, 6, 7, 9, 9, 9],  # fills its canvas, without the EOS behind it
        [0, 0, 5, 8, 9, 1],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1]] * 2
    assert batch["completion_mask"].tolist() == [[0, 0, 0, 1, 1, 1]] * 4


def test_text_longer_than_the_canvas_is_one_clear_error(make_dpo):
    fits = Dataset.from_list([{"prompt": "How many?\n", "chosen": "7", "rejected": "+-+-"}])
    make_dpo(train=fits)
    longer = Dataset.from_list([{"prompt": "How many?\n", "chosen": "7", "rejected": "+-+-+"}])
    with pytest.raises(ConfigError, match=r"generation\.max_completion_length=4: 1 of 2 .* longest has 5 tokens"):
        make_dpo(train=longer)


# ---- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", FOR_PAIRS)
@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_loss_of_unchanged_weights_is_log_2_to_the_bit(make_dpo, make_policy, likelihood, adapter):
    policy = make_policy(attention_dropout=0.5)
    trainer = make_dpo(policy=policy, likelihood=likelihood, peft_config=adapter, p_mask_prompt=0.3)
    loss, margin = loss_of(trainer, batch_of(trainer))
    assert loss.item() == -functional.logsigmoid(torch.zeros(())).item() == pytest.approx(math.log(2))
    assert margin == 0.0
    loss.backward()
    moved = [weight.grad for weight in trainer.model.parameters() if weight.requires_grad]
    assert any(gradient.abs().max() > 0 for gradient in moved if gradient is not None)


def test_an_adapter_that_is_trained_on_is_its_own_reference(make_dpo, make_policy):
    policy = make_policy()
    adapted = get_peft_model(policy.model, LORA)
    move(adapted)
    trainer = make_dpo(policy=Policy(adapted, policy.tokenizer))
    batch = batch_of(trainer)
    assert loss_of(trainer, batch)[1] == 0.0
    move(trainer.model)
    assert abs(loss_of(trainer, batch)[1]) > 1e-3


@pytest.mark.parametrize("shared", [True, False])
def test_states_are_new_in_every_micro_step_and_those_of_an_evaluation_are_not(make_dpo, shared):
    trainer = make_dpo(share_states_in_pairs=shared)
    drawn, draw = [], trainer._draw

    def watched(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    trainer._draw = watched
    trainer.train()
    first, second = (draws.hidden for draws in drawn)
    assert not torch.equal(first, second)
    assert torch.equal(first[:8], first[8:]) is shared
    move(trainer.model)
    found = [trainer.evaluate() for _ in range(2)]
    assert found[0]["eval_loss"] == found[1]["eval_loss"]
    assert found[0]["eval_rewards/margins"] == found[1]["eval_rewards/margins"] != 0


def exact_values(trainer, batch, value):
    """``value`` of the table of conditional log-probabilities of every text, policy and reference: (2B,) each."""
    found = []
    for model in (trainer.model, trainer.ref_model):
        denoiser = trainer.policy.denoiser(model.eval())
        rows = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
        tables = [conditional_logps(denoiser, ids[mask][:-CANVAS], ids[-CANVAS:]) for ids, mask in rows]
        found.append(torch.stack([value(table) for table in tables]))
    return found


def by_hand(loss_type, beta, policy, reference):
    """DPO (2305.18290, eq. 7), IPO (2310.12036, eq. 17, a token) and hinge, from sequence values (2B,)."""
    chosen, rejected = (policy - reference).chunk(2)
    margin = chosen - rejected
    if loss_type == "sigmoid":
        return -functional.logsigmoid(beta * margin).mean()
    if loss_type == "ipo":
        return (margin / CANVAS - 1 / (2 * beta)).square().mean()
    return (1 - beta * margin).clamp(min=0).mean()


def assert_same_loss_and_gradient(trainer, batch, value, loss_type):
    trainer.model.zero_grad()
    loss, _ = loss_of(trainer, batch)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    policy, reference = exact_values(trainer, batch, value)
    expected = by_hand(loss_type, trainer.beta, policy, reference.detach())
    expected.backward()
    assert (policy - reference).abs().min() > 1e-3  # not by chance near log 2
    assert loss.item() == pytest.approx(expected.item(), rel=2e-6, abs=2e-6)
    largest = max(gradient.abs().max() for gradient in found.values())
    assert largest > 1e-3
    for name, weight in trainer.model.named_parameters():  # float32 against float64
        assert torch.allclose(found[name], weight.grad, atol=2e-5 * largest.item()), name


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_loss_is_that_of_the_exact_likelihood_where_one_state_gives_it(make_dpo, loss_type):
    trainer = make_dpo(loss_type=loss_type, beta=0.3, **ONE_STATE)
    move(trainer.model)
    schedule = trainer.likelihood.schedule
    assert_same_loss_and_gradient(
        trainer, batch_of(trainer), lambda table: exact_log_likelihood(table, schedule), loss_type
    )


class Enumerated(Likelihood):
    """Every set of masked tokens, weighted by what it counts in the bound: the exact bound."""

    default_draws = 1

    def draw_states(self, masking, length, noise, trajectory):
        masked = subsets(length)[1:]
        size = masked.sum(dim=1)
        t = torch.tensor(self.schedule.timesteps[1:])
        mask_prob = self.schedule.mask_prob(t).unsqueeze(1)
        probability = mask_prob**size * (1 - mask_prob) ** (length - size)
        weight = self.schedule.nelbo_weight(t) @ probability
        rows = len(noise(1))
        return {"hidden": masked.expand(rows, -1, -1), "weight": weight.expand(rows, -1)}


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_loss_is_that_of_the_exact_bound_where_all_states_are_scored(make_dpo, loss_type):
    trainer = make_dpo(loss_type=loss_type, beta=0.3)
    trainer.likelihood = Enumerated(**trainer.likelihood.schedule.params)
    trainer.masking_strategy.schedule = trainer.likelihood.schedule
    move(trainer.model)
    schedule = trainer.likelihood.schedule
    assert_same_loss_and_gradient(trainer, batch_of(trainer), lambda table: -exact_nelbo(table, schedule), loss_type)


def test_swapped_texts_swap_the_sign_of_the_margin(make_dpo, pairs):
    swapped = pairs.rename_columns({"chosen": "rejected", "rejected": "chosen"})
    margins = []
    for train in (pairs, swapped):
        trainer = make_dpo(train=train, **ONE_STATE)
        move(trainer.model)
        margins.append(loss_of(trainer, batch_of(trainer))[1])
    assert abs(margins[0]) > 1e-2
    assert margins[1] == pytest.approx(-margins[0], abs=1e-6)


def test_scoring_in_groups_changes_neither_loss_nor_gradient(make_dpo):
    found = []
    for group in (None, 3):
        trainer = make_dpo(num_draws=4, states_per_forward=group)
        move(trainer.model)
        loss, _ = loss_of(trainer, batch_of(trainer))
        loss.backward()
        found.append((loss.item(), trainer.model.lm_head.weight.grad.clone()))
    (loss, gradient), (same, in_groups) = found
    assert same == pytest.approx(loss, rel=1e-5) and gradient.abs().max() > 1e-3
    assert torch.allclose(in_groups, gradient, atol=1e-6)


# ---- noise ----------------------------------------------------------------------------------------------------------


def enumerated(by):
    """Conditional log-probabilities of two texts under a policy and its reference, ``by`` how much they differ, in
    all states: (2 models, 2 texts, 2^L, L)."""
    found = []
    for changed in (by, 0.0):
        model = build_model(0)
        move(model, changed)
        denoiser = AnswerDenoiser(model, MASK)
        (prompt,), texts = encode(["12+5="]), encode(["17..", "16.."])
        with torch.no_grad():
            found.append(torch.stack([conditional_logps(denoiser, prompt, text) for text in texts]))
    return torch.stack(found)


REPETITIONS = 40_000


def estimates(tables, text, name, draws, noise):
    """Estimates of log p of a text from the estimator's own draws, policy and reference on the same states:
    (2, REPETITIONS)."""
    estimator = ESTIMATORS[name](max_timesteps=4, num_draws=draws)
    masking = DiffusionMaskingStrategy(0.0, **estimator.schedule.params)
    masking.schedule = estimator.schedule
    drawn = estimator.draw(masking, REPETITIONS, CANVAS, 1, generator_at(noise, draws))
    state = (drawn.hidden * (2 ** torch.arange(CANVAS))).sum(dim=2)
    return (tables[:, text].sum(dim=2)[:, state] * drawn.weight).sum(dim=2)


def scores(tables, name, draws, noise):
    """Estimates of s / beta; ``noise`` says with which draws each of the four values is made: policy and reference of
    the chosen text, then of the rejected one."""
    (policy, _), (_, reference) = (estimates(tables, 0, name, draws, n) for n in noise[:2])
    (other, _), (_, base) = (estimates(tables, 1, name, draws, n) for n in noise[2:])
    return policy - reference - other + base


def test_estimates_are_unbiased_and_their_loss_is_too_large_by_what_noise_there_is():
    tables = enumerated(by=0.3)
    policy, reference = (torch.stack([-any_order_average(table) for table in model]) for model in tables)
    difference, beta = policy - reference, 0.5
    score = beta * (difference[0] - difference[1])
    loss, slope = -functional.logsigmoid(score), -torch.sigmoid(-score)
    bias, noise = {}, {}
    for draws in (2, 8, 32):
        found = beta * scores(tables, "monte_carlo", draws, "aabb")
        assert abs(found.mean() - score) < 4 * found.std() / REPETITIONS**0.5
        excess = -functional.logsigmoid(found) - loss - slope * (found - score)  # the last term has mean 0
        bias[draws], noise[draws] = excess.mean().item(), found.var().item()
        assert 0 < bias[draws] < noise[draws] / 8
        assert functional.logsigmoid(found).var() < noise[draws]
    # fresh draws: a variance of 1 / M, and a bias of half the curvature times that
    curvature = (torch.sigmoid(score) * torch.sigmoid(-score)).item()
    for few, many in ((2, 8), (8, 32)):
        assert noise[few] / noise[many] == pytest.approx(4, rel=0.1)
    assert bias[8] / bias[32] == pytest.approx(4, rel=0.15)
    assert bias[32] == pytest.approx(curvature / 2 * noise[32], rel=0.1)


@pytest.mark.parametrize("name", ["trajectory_nelbo", "monte_carlo", "complementary"])
def test_shared_states_leave_less_noise_than_states_of_their_own(name):
    tables = enumerated(by=0.05)
    apart, by_text, by_pair = (scores(tables, name, 8, noise) for noise in ("abcd", "aacc", "aaaa"))
    for found in (by_text, by_pair):
        assert found.mean() == pytest.approx(apart.mean().item(), abs=5 * apart.std().item() / REPETITIONS**0.5)
    # measured: 17 to 670 times less, and again 2 to 9 times
    assert by_text.var() < apart.var() / 8
    assert by_pair.var() < by_text.var() / 1.5


@pytest.mark.parametrize("shared", [True, False])
def test_logged_standard_error_is_the_spread_of_the_margin(make_dpo, pairs, shared):
    # texts that differ in one token of four: most of their noise is the same
    alike = [row | {"chosen": str(i), "rejected": str(i + 1)} for i, row in enumerate(pairs)]
    options = {"likelihood": "monte_carlo", "num_draws": 16, "share_states_in_pairs": shared}
    trainer = make_dpo(train=Dataset.from_list(alike), **options)
    batch = batch_of(trainer)
    move(trainer.model)
    with torch.no_grad():
        for trainer.state.global_step in range(60):
            loss_of(trainer, batch)
    metrics = trainer._metrics["train"]
    claimed = torch.tensor(metrics["rewards/margins_standard_error"]).square().mean().sqrt()
    spread = torch.tensor(metrics["rewards/margins"]).std() * 8**0.5  # of one pair; the margin is the mean of 8
    # a standard deviation of 60 values has a standard error of 9%
    assert claimed == pytest.approx(spread.item(), rel=0.3)


# ---- runs -----------------------------------------------------------------------------------------------------------


def frozen(trainer):
    """What the reference is made of."""
    model = trainer.model if trainer.ref_model is None else trainer.ref_model
    return {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_training_ranks_the_pairs_and_leaves_the_reference_alone(make_dpo, adapter):
    trainer = make_dpo(max_steps=30, beta=1.0, num_draws=4, peft_config=adapter)
    before = frozen(trainer)
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_rewards/accuracies"] == 1.0 and found["eval_rewards/margins"] > 1
    assert found["eval_loss"] < 0.5 * math.log(2)
    assert found["eval_rewards/margins_standard_error"] > 0
    assert not {"eval_entropy", "eval_logits/chosen", "eval_mean_token_accuracy"} & found.keys()
    after = frozen(trainer)
    assert len(before) > 5 and before.keys() == after.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_report_shows_margin_and_ranking(make_dpo, tmp_path):
    trainer = make_dpo(max_steps=3, eval_strategy="steps", eval_steps=1)
    trainer.train()
    empty = {"settings": {}, "environment": {}, "held_out": {}, "samples": [], "seconds": {}, "notes": []}
    report = write_report(tmp_path, title="", command="", log_history=trainer.state.log_history, **empty).read_text()
    assert "| step | loss | reward margin | pairs ranked right |" in report
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_killed_run_resumes_bit_by_bit(make_dpo, tmp_path):
    def make(path):
        options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        return make_dpo(output_dir=str(path), max_steps=5, **options, **SAVING)

    assert_resumes_bit_by_bit(make, tmp_path, 3, "substep")


def test_killed_lora_run_resumes_bit_by_bit(make_dpo, tmp_path):
    def make(path):
        torch.manual_seed(0)  # of the adapter's own fresh weights
        return make_dpo(output_dir=str(path), max_steps=4, peft_config=LORA, **SAVING)

    assert_resumes_bit_by_bit(make, tmp_path, 2)


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_two_processes_train_as_one(make_dpo, make_policy, tmp_path, sharded, adapter):
    def make(batch):
        # plain gradient descent: Adam divides rounding errors by their own size
        options = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "beta": 1.0, "p_mask_prompt": 0.3}
        options |= {"fsdp": True} if sharded and batch < 8 else {}
        policy = make_policy(layers=2)
        return make_dpo(policy=policy, per_device_train_batch_size=batch, peft_config=adapter, **options)

    (one,), two = (train_and_save(make, processes, tmp_path) for processes in (1, 2))
    assert len({entry["loss"] for entry in one["logs"]}) == 3
    for rank in two:
        for expected, found in zip(one["logs"], rank["logs"], strict=True):
            assert found == pytest.approx(expected, abs=2e-5, rel=1e-4)
    for name, value in one["weights"].items():  # accelerate gives the full weights to the first process alone
        assert torch.allclose(two[0]["weights"][name], value, atol=2e-6), name


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *(({"likelihood": name}, f"loss.likelihood='{name}': expected ") for name in NOT_FOR_PAIRS),
        ({"nelbo_source": "rollout"}, "loss.source='rollout': expected 'forward'"),
        ({"ratio": "plain"}, "loss.ratio='plain': expected unset"),
        ({"memory_budget_gib": 1.0}, "loss.memory_budget_gib=1.0: expected unset"),
        ({"prediction_type": "flow_matching"}, "loss.prediction_type='flow_matching': expected 'masked'"),
        ({"temperature": 0.0}, "generation.temperature=0.0: expected above 0"),
        ({"beta": 0.0}, "training.beta=0.0: expected a finite number above 0"),
        ({"precompute_ref_log_probs": True}, "training.precompute_ref_log_probs=True: not supported"),
        ({"sync_ref_model": True}, "training.sync_ref_model=True: not supported"),
        ({"max_length": 64}, "training.max_length=64: not supported: the canvas"),
        ({"ld_alpha": 0.5}, "training.ld_alpha=0.5: not supported"),
        ({"use_weighting": True}, "training.use_weighting=True: not supported"),
        (
            {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_probability": 0.5},
            "scheduled_sampling.max_step_offset=2: expected 0",
        ),
        ({"preference_samples": 1}, "preferences.samples=1: expected at least 2"),
        ({"preference_files": ["a", "b", "c"]}, "preferences.data_files="),
        ({"preference_files": ["a"], "preference_dataset": "b"}, "preferences.dataset_name='b': expected no second"),
        ({"preference_files": ["a"], "preference_samples": 4}, "preferences.samples=4: only with own completions"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_what_dpo_cannot_honour_is_refused(dpo_args, options, said):
    with pytest.raises(ConfigError) as error:
        dpo_args(**options)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_an_option_that_was_changed_later_is_refused_too(make_policy, dpo_args, pairs):
    args = dpo_args()
    args.use_weighting = True
    with pytest.raises(ConfigError, match=r"training\.use_weighting=True"):
        DiffusionDPOTrainer(make_policy(), args, pairs)
