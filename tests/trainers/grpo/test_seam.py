"""What this project overrides and calls inside trl and transformers has the shape that it was written for."""

import inspect
from importlib.metadata import version

import pytest
import torch
from transformers import Trainer
from trl import GRPOTrainer, SFTTrainer
from trl.models import prepare_deepspeed, prepare_fsdp, unwrap_model_for_generation
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import (
    add_fused_lm_head,
    disable_dropout_in_model,
    pad,
    shuffle_sequence_dict,
    split_tensor_dict,
)

from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer

PARAMETERS = {
    GRPOTrainer._generate: ["self", "prompts"],
    GRPOTrainer._generate_single_turn: [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    GRPOTrainer._generate_and_score_completions: ["self", "inputs"],
    GRPOTrainer._get_per_token_logps_and_entropies: [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
    ],
    GRPOTrainer._compute_loss: ["self", "model", "inputs"],
    GRPOTrainer._prepare_inputs: ["self", "generation_batch"],
    GRPOTrainer.training_step: ["self", "model", "inputs", "num_items_in_batch"],
    GRPOTrainer.evaluate: ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    Trainer._save_rng_state: ["self", "output_dir"],
    Trainer._load_rng_state: ["self", "checkpoint"],
    Trainer._save_checkpoint: ["self", "model", "trial"],
    GRPOTrainer._save_checkpoint: ["self", "model", "trial"],
    SFTTrainer.compute_loss: ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
    SFTTrainer.prediction_step: ["self", "model", "inputs", "prediction_loss_only", "ignore_keys"],
    unwrap_model_for_generation: ["model", "accelerator", "gather_deepspeed3_params"],
    prepare_deepspeed: ["model", "accelerator"],
    prepare_fsdp: ["model", "accelerator"],
    SyncRefModelCallback.__init__: ["self", "ref_model", "accelerator"],
    disable_dropout_in_model: ["model"],
    pad: ["tensors", "padding_value", "padding_side"],
    shuffle_sequence_dict: ["seq_dict"],
    split_tensor_dict: ["tensor_dict", "num_chunks"],
}


def test_trl_is_the_release_that_the_overrides_were_written_for():
    assert version("trl").split(".")[:2] == ["1", "16"]


@pytest.mark.parametrize("seam", PARAMETERS, ids=lambda seam: seam.__qualname__)
def test_parameters_of_every_seam_keep_their_names_and_order(seam):
    names = list(inspect.signature(seam).parameters)
    expected = PARAMETERS[seam]
    assert names[: len(expected)] == expected
    whole = {"_get_per_token_logps_and_entropies", "unwrap_model_for_generation", "pad"}  # longer, and optional
    assert seam.__name__ in whole or names == expected


def test_random_state_is_saved_by_transformers_alone():
    assert not {"_save_rng_state", "_load_rng_state"} & set(vars(GRPOTrainer))


class Recording(ImprovedDiffuGRPOTrainer):
    """Keeps what trl's own implementations return, and what reaches the loss."""

    def _generate(self, *args, **kwargs):
        self.generated = super()._generate(*args, **kwargs)
        return self.generated

    def _compute_loss(self, model, inputs):
        self.reached_loss = set(inputs)
        self.loss_inputs = inputs
        self.loss = super()._compute_loss(model, inputs)
        return self.loss


@pytest.fixture
def trained(make_grpo):
    trainer = make_grpo(cls=Recording, beta=0.1, num_iterations=2, max_steps=1)
    trainer.train()
    return trainer


def test_generation_returns_eight_values_of_which_completions_are_non_empty_lists(trained):
    prompt_ids, completion_ids, tool_mask, texts, logprobs, extra, images, tool_images = trained.generated
    assert len(prompt_ids) == len(completion_ids) == len(texts) == 8
    assert all(isinstance(ids, list) and ids for ids in completion_ids)
    assert (tool_mask, logprobs, extra, images, tool_images) == (None, None, {}, None, [])


def test_one_turn_of_trl_returns_token_lists_and_log_probs_as_the_override_does(trained, tokenizer):
    prompts = tokenizer(["Tom has 3 pens.", "Ann has"])["input_ids"]
    for cls in (GRPOTrainer, ImprovedDiffuGRPOTrainer):
        completion_ids, logprobs = cls._generate_single_turn(trained, prompts, None, {}, 1)
        assert len(completion_ids) == 2
        assert all(isinstance(token, int) for ids in completion_ids for token in ids)
        assert logprobs is None


def test_scoring_of_trl_returns_three_values_of_which_the_first_two_are_per_token(trained):
    ids = torch.randint(3, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    add_fused_lm_head(trained.model, outputs=("log_probs", "entropy"))  # which our trainer takes off again
    logps, entropies, aux = GRPOTrainer._get_per_token_logps_and_entropies(
        trained, trained.model, ids, torch.ones_like(ids), 4, compute_entropy=True
    )
    assert logps.shape == entropies.shape == (2, 4)
    assert aux is None


def test_batch_of_the_loss_has_trls_keys_and_the_drawn_states_and_nothing_else(trained):
    ours = {
        "canvas_ids",
        "commit_logps",
        *("draws/" + name for name in ("hidden", "scored", "prompt_hidden", "weight", "timestep")),
    }
    assert trained.reached_loss == ours | {
        "draws/variance_factor",
        "prompt_ids",
        "prompt_mask",
        "completion_ids",
        "completion_mask",
        "advantages",
        "num_items_in_batch",
        "old_per_token_logps",
        "ref_per_token_logps",
    }


def test_every_tensor_of_the_batch_has_the_batch_dimension_first(trained):
    for key, value in trained.loss_inputs.items():
        assert isinstance(value, torch.Tensor)
        assert value.ndim == 0 if key == "num_items_in_batch" else value.size(0) == 8, key


def test_loss_is_one_number_that_can_be_differentiated(trained):
    assert trained.loss.shape == ()
    assert trained.loss.requires_grad
