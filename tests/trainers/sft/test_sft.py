"""SFT minimises the bound of the given text, on the canvas that rollouts are written on."""

import pytest
import torch
from peft import LoraConfig
from torch.nn import functional

from trainers.collating import IGNORED, CanvasCollator
from trainers.distributed.randomness import generator_at
from trainers.settings.options import ConfigError
from trainers.sft.trainer import DiffusionSFTTrainer

CANVAS = 20  # of the fixture make_sft
# one transition, from everything masked to nothing: the only state is the empty canvas, and nothing is left to chance
ONE_STATE = {"max_timesteps": 1, "alpha_min": 0.0, "alpha_max": 1.0, "num_draws": 1}


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_canvas_is_a_left_padded_prompt_and_a_completion_with_an_eos_tail():
    rows = [
        {"input_ids": [5, 6, 7, 8, 9, 1], "labels": [IGNORED] * 3 + [8, 9, 1]},
        {"input_ids": [5, 1], "labels": [IGNORED, 1]},
    ]
    batch = CanvasCollator(canvas_length=5, pad_id=0, eos_id=1)(rows)
    assert batch["prompt_ids"].tolist() == [[5, 6, 7], [0, 0, 5]]
    assert batch["prompt_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["completion_ids"].tolist() == [[8, 9, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_batches_of_the_trainer_hold_the_texts_of_the_dataset(make_sft, splits, tokenizer):
    trainer = make_sft(train=splits["train"].select(range(8)))
    (batch,) = trainer.get_train_dataloader()
    found = set()
    for prompt, mask, canvas in zip(
        batch["prompt_ids"], batch["prompt_mask"].bool(), batch["completion_ids"].tolist(), strict=True
    ):
        length = canvas.index(tokenizer.eos_token_id)
        assert set(canvas[length:]) == {tokenizer.eos_token_id} and len(canvas) == CANVAS
        found.add((tokenizer.decode(prompt[mask]), tokenizer.decode(canvas[:length])))
    rows = splits["train"][:8]
    assert found == set(zip(rows["prompt"], rows["completion"], strict=True))


@pytest.mark.parametrize("p_mask_prompt", [0.0, 0.5])
def test_loss_is_the_bound_per_canvas_token_computed_state_by_state(make_sft, p_mask_prompt):
    trainer = make_sft(num_draws=4, p_mask_prompt=p_mask_prompt)
    batch = next(iter(trainer.get_train_dataloader()))
    prompts, mask, canvas = batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"]
    trainer.model.train()
    found = trainer.compute_loss(trainer.model, batch)

    draws = trainer.nelbo_loss.draw(
        trainer.masking_strategy, 8, CANVAS, prompts.size(1), generator_at(0, "train", 0, 0, 0)
    )
    mask_id, bound = trainer.policy.mask_id, 0.0
    for row in range(8):
        for m in range(4):
            prompt = prompts[row].masked_fill(draws.prompt_hidden[row, m] & mask[row].bool(), mask_id)
            noisy = canvas[row].masked_fill(draws.hidden[row, m], mask_id)
            attention = torch.cat([mask[row], torch.ones(CANVAS, dtype=mask.dtype)])
            logits = trainer.model(torch.cat([prompt, noisy])[None], attention_mask=attention[None]).logits[
                0, -CANVAS:
            ]
            logits[:, mask_id] = float("-inf")
            costs = functional.cross_entropy(logits, canvas[row], reduction="none")
            mask_prob = trainer.nelbo_loss.schedule.mask_prob(draws.timestep[row, m]).item()
            bound += (costs * draws.hidden[row, m]).sum().item() / mask_prob / 4
    assert found.item() == pytest.approx(bound / 8 / CANVAS, rel=1e-5)


def test_noise_differs_between_micro_batches_and_between_steps(make_sft, monkeypatch):
    trainer = make_sft(gradient_accumulation_steps=2, max_steps=2)
    draw, hidden = trainer.nelbo_loss.draw, []

    def watch(*args, **kwargs):
        draws = draw(*args, **kwargs)
        hidden.append(draws.hidden)
        return draws

    monkeypatch.setattr(trainer.nelbo_loss, "draw", watch)
    trainer.train()
    assert len(hidden) == 4
    for i in range(4):
        for j in range(i):
            assert not torch.equal(hidden[i], hidden[j])


def test_loss_falls(make_sft):
    trainer = make_sft(max_steps=30)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert 0 < trainer.evaluate()["eval_loss"] < 0.5 * before


def test_lora_trains_the_adapter_alone(make_policy, make_sft):
    policy = make_policy()
    before = weights(policy.model)
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    plain = make_sft(policy=policy)
    trainer = DiffusionSFTTrainer(policy, plain.args, plain.train_dataset, peft_config=adapter)
    trainer.train()
    after = {name.replace(".base_layer", ""): value for name, value in policy.model.state_dict().items()}
    moved = [name for name, value in after.items() if "lora_B" in name and value.abs().sum() > 0]
    assert moved
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_evaluating_twice_gives_the_same_loss_also_after_training_noise(make_sft):
    trainer = make_sft(max_steps=1, learning_rate=0.0)
    first = trainer.evaluate()
    trainer.train()
    second = trainer.evaluate()
    assert first["eval_loss"] == second["eval_loss"]
    assert first["eval_nelbo"] == pytest.approx(first["eval_loss"] * CANVAS)  # 8 problems are one batch


def test_gradient_accumulation_gives_the_update_of_the_whole_batch(make_sft):
    models = []
    for batch, accumulation in ((8, 1), (4, 2), (2, 4)):
        trainer = make_sft(
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            **ONE_STATE,
        )
        start = weights(trainer.model)
        trainer.train()
        models.append((weights(trainer.model), [e["loss"] for e in trainer.state.log_history[:-1]]))
    (whole, losses), *others = models
    assert any(not torch.equal(whole[name], start[name]) for name in start)
    for parts, same_losses in others:
        assert same_losses == pytest.approx(losses, rel=1e-5)
        for name, value in whole.items():
            assert torch.allclose(parts[name], value, atol=1e-6), name


def test_completion_longer_than_the_canvas_is_one_clear_error(make_sft, splits, tokenizer):
    longest = max(len(ids) for ids in tokenizer(list(splits["train"]["completion"]))["input_ids"]) + 1  # with its EOS
    make_sft(max_completion_length=longest)
    with pytest.raises(ConfigError) as error:
        make_sft(max_completion_length=longest - 1)
    message = str(error.value)
    assert f"generation.max_completion_length={longest - 1}" in message
    assert f"longest has {longest} tokens" in message and "\n" not in message


def test_masking_and_loss_hold_one_schedule_object(make_sft):
    trainer = make_sft(alpha_schedule="linear")
    assert trainer.masking_strategy.schedule is trainer.nelbo_loss.schedule
