"""A loss or a gradient that is not finite: no update, all ranks stop, and the batch can be replayed."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from processes import launch
from safetensors.torch import load_file

from trainers.faults.endings import RunError
from trainers.faults.finite_steps import gradient_norm, not_finite

GRPO = {"num_iterations": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
SFT = {"gradient_accumulation_steps": 2}
PARAMETER = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def make(make_grpo, make_sft):
    return {
        "grpo": lambda **options: make_grpo(**{"max_steps": 4, **GRPO, **options}),
        "sft": lambda **options: make_sft(**{"max_steps": 4, **SFT, **options}),
    }


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@dataclass
class Poison:
    """From the third step on, the second micro-step's loss or one gradient is made non-finite."""

    trainer: object
    value: float

    def loss(self):
        compute = self.trainer.compute_loss

        def poisoned(*args, **kwargs):
            last = self.trainer.accelerator.sync_gradients
            return compute(*args, **kwargs) * (self.value if self.trainer.state.global_step == 2 and last else 1.0)

        self.trainer.compute_loss = poisoned

    def gradient(self):
        def poisoned(gradient):
            if self.trainer.state.global_step == 2:
                gradient = gradient.clone()
                gradient[3, 5] = self.value
            return gradient

        self.trainer.model.get_parameter(PARAMETER).register_hook(poisoned)


def stopped(trainer):
    with pytest.raises(RunError) as error:
        trainer.train()
    message = str(error.value)
    assert "\n" not in message and error.value.shared
    return message


@pytest.mark.parametrize("kind", ["grpo", "sft"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_update_is_made_and_the_step_is_saved(make, tmp_path, kind, what, value):
    two_steps = make[kind](max_steps=2)
    two_steps.train()
    trainer = make[kind](save_strategy="steps", save_steps=1)
    getattr(Poison(trainer, value), what)()
    message = stopped(trainer)
    assert_equal(weights(trainer), weights(two_steps))
    assert trainer.state.global_step == 2
    output = Path(trainer.args.output_dir)
    assert {path.name for path in output.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    expected = "the loss of micro-step 2 of 2 is" if what == "loss" else f"first that of {PARAMETER}"
    for part in ("step 3", expected, "nan_batch_step_3.pt", "nan_model_step_3", "--resume_from_checkpoint true"):
        assert part in message
    assert_equal(load_file(output / "nan_model_step_3" / "model.safetensors"), weights(two_steps))
    record = torch.load(output / "nan_batch_step_3.pt", weights_only=True)
    assert record["step"] == 3 and len(record["micro_steps"]) == 2


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_replayed_step_has_the_losses_that_it_had(make, tmp_path, kind):
    trainer = make[kind]()
    Poison(trainer, float("nan")).gradient()
    stopped(trainer)
    output = Path(trainer.args.output_dir)
    record = torch.load(output / "nan_batch_step_3.pt", weights_only=True)
    found = [micro["loss"].item() for micro in record["micro_steps"]]
    torch.manual_seed(7)
    fresh = make[kind]()
    fresh.model.load_state_dict(load_file(output / "nan_model_step_3" / "model.safetensors"))
    assert fresh.replay_step(output / "nan_batch_step_3.pt") == (found, [])  # the poison was not in the batch
    assert found[0] != found[1]
    Poison(fresh, float("nan")).gradient()
    assert fresh.replay_step(output / "nan_batch_step_3.pt") == (found, [PARAMETER])


def test_resumed_before_it_the_run_meets_the_same_step_again(make):
    messages = []
    for resume in (None, "checkpoint-2"):
        trainer = make["grpo"](save_strategy="steps", save_steps=1)
        Poison(trainer, float("nan")).loss()
        with pytest.raises(RunError) as error:
            trainer.train(resume_from_checkpoint=resume and str(Path(trainer.args.output_dir) / resume))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_all_ranks_stop_for_the_loss_of_one(make, tmp_path):
    def train():
        trainer = make["sft"](gradient_accumulation_steps=1, per_device_train_batch_size=4)
        if trainer.accelerator.process_index == 1:
            # a gradient of zero: DDP tells the others nothing
            compute = trainer.compute_loss
            trainer.compute_loss = lambda *args, **kwargs: (
                compute(*args, **kwargs) + (float("inf") if trainer.state.global_step == 1 else 0.0)
            )
        with pytest.raises(RunError) as error:
            trainer.train()
        return {"message": str(error.value), "weights": weights(trainer), "step": trainer.state.global_step}

    one, two = launch(train, 2, tmp_path)
    assert one["step"] == two["step"] == 1
    assert all("step 2 (rank 1): the loss of micro-step 1 of 1 is inf" in rank["message"] for rank in (one, two))
    assert all(f"nan_batch_step_2_rank_{i}.pt" in rank["message"] for i, rank in enumerate((one, two)))
    assert_equal(one["weights"], two["weights"])
    assert not not_finite(one["weights"].items())
    assert len(list(tmp_path.glob("sft/nan_batch_step_2_rank_*.pt"))) == 2


def test_norm_of_gradients_is_finite_where_all_their_values_are():
    model = torch.nn.ModuleList([torch.nn.Linear(3, 2), torch.nn.Linear(2, 2).half(), torch.nn.Linear(2, 2)])
    assert gradient_norm(model) == 0.0
    model[0].weight.grad = torch.full((2, 3), -0.5)
    model[1].weight.grad = torch.full((2, 2), 6e4).half()  # its norm is none of half's numbers; the third has none
    assert gradient_norm(model) == pytest.approx(1.2e5, rel=1e-3)
    for value in (float("nan"), float("inf"), -float("inf")):
        model[1].weight.grad[1, 0] = value
        assert not gradient_norm(model).isfinite()


def test_gradient_whose_norm_overflows_is_no_update_either(make):
    trainer = make["sft"]()
    Poison(trainer, 1e38).gradient()
    assert "step 3: the norm of its gradient overflows" in stopped(trainer)
