"""What is read natively runs as any Llama: padding, caches, activation checkpointing, sharded weights."""

import originals
import pytest
import torch
from originals import ORIGINALS
from processes import PLAIN, agree, train_and_save
from resumes import SAVING, assert_resumes_bit_by_bit
from safetensors.torch import load_file, save_file
from watching import LORA

from core.masking_strategy import sync_masking_with_nelbo
from core.sampling import draw_keys
from trainers.faults.endings import RunError
from trainers.models.adapters import lora_config
from trainers.models.loading import load_policy
from trainers.rollouts import roll_out
from trainers.settings.model import ModelArguments
from trainers.settings.objects import build_generator, build_loss, build_masking

CANVAS, BLOCK = 16, 4
CACHES = {
    "llada": ({"cache": "prefix", "cache_refresh": 1}, {"cache": "dual", "cache_refresh": 1}),
    "illada": ({"cache": "dual", "cache_refresh": 1},),
    "llada_moe": ({"cache": "dual", "cache_refresh": 1},),
    "sdar": ({"cache": "exact"},),
    "sdar_moe": ({"cache": "exact"},),
    "llada2": ({"cache": "exact"},),
}


@pytest.fixture
def policy_of(tokenizer, tmp_path_factory):
    """name -> the policy of a new checkpoint of that kind."""

    def load(name, **options):
        directory = tmp_path_factory.mktemp(name)
        originals.write(name, tokenizer, directory)
        return load_policy(ModelArguments(str(directory), **options), block_length=ORIGINALS[name].block_length)

    return load


@pytest.mark.parametrize("name", CACHES)
def test_caches_that_are_fresh_change_no_token(policy_of, grpo_args, splits, name):
    """Exact caches of block-causal models, and those of bidirectional ones that are filled at every evaluation; the
    prompts are of several lengths, so that some are padded."""
    policy = policy_of(name)
    prompts = policy.tokenizer(list(splits["validation"]["prompt"]))["input_ids"]
    prompts[1] = prompts[1][3:]

    def write(**options):
        args = grpo_args(max_completion_length=CANVAS, block_length=BLOCK, max_timesteps=CANVAS, **options)
        masking = build_masking(args)
        schedule = sync_masking_with_nelbo(masking, build_loss(args))
        sampler = build_generator(args, policy.denoiser(), schedule, masking, policy.eos_id)
        keys = draw_keys(len(prompts), torch.Generator().manual_seed(0))
        with policy.denoiser().evaluating():
            return roll_out(sampler, prompts, keys, policy.pad_id, 8, torch.device("cpu"))

    whole = write(cache="off")
    for options in CACHES[name]:
        cached = write(**options)
        assert torch.equal(cached.ids, whole.ids)
        torch.testing.assert_close(cached.commit_logps, whole.commit_logps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_grpo_trains_on_stale_caches(policy_of, make_grpo, cache):
    options = {"cache": cache, "block_length": 7, "max_timesteps": 14, "beta": 0.01}
    trainer = make_grpo(policy=policy_of("llada"), **options)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.train()
    assert any(not torch.equal(before[key], value) for key, value in trainer.model.state_dict().items())
    assert all(bool(value.isfinite().all()) for value in trainer.model.state_dict().values())


@pytest.mark.parametrize("name", ["llada", "llada2"])
def test_activation_checkpointing_is_transformers_and_changes_no_weight(policy_of, make_sft, name):
    """The family's own switch is not in transformers' class, and is not asked for."""

    def train(again):
        canvas = {"max_completion_length": 24, "block_length": ORIGINALS[name].block_length, "max_timesteps": 12}
        trainer = make_sft(policy=policy_of(name), gradient_checkpointing=again, **PLAIN, **canvas)
        assert trainer.args.gradient_checkpointing is again
        trainer.train()
        return trainer.model.state_dict()

    kept, again = train(False), train(True)
    for key, value in kept.items():
        torch.testing.assert_close(again[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("peft", [None, LORA], ids=["full weights", "lora"])
def test_two_ranks_with_sharded_weights_train_as_one_process(policy_of, make_grpo, tmp_path, peft):
    def make(rows):
        sharded = {"fsdp": True} if rows < 8 else {}
        options = {"peft_config": peft, "beta": 0.1, **PLAIN}
        return make_grpo(policy=policy_of("llada"), per_device_train_batch_size=rows, **sharded, **options)

    (one,), two = (train_and_save(make, processes, tmp_path) for processes in (1, 2))
    agree(one, two)
    assert any(entry["grad_norm"] > 0 for entry in one["logs"])


@pytest.mark.parametrize(("name", "entries"), [("llada_moe", {"norm_topk_prob": None}), ("llada", {}), ("dream", {})])
def test_an_adapter_is_saved_alone_whatever_the_config_of_its_original_says(
    tokenizer, make_sft, tmp_path, name, entries
):
    """Of LLaDA-MoE it has a value that transformers' class refuses, of LLaDA fewer tokens than the table has rows."""
    directory = tmp_path / "original"
    originals.write(name, tokenizer, directory, **entries)
    policy = load_policy(ModelArguments(str(directory), use_peft=True))
    trainer = make_sft(policy=policy, peft_config=lora_config(ModelArguments(use_peft=True), policy.model))
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert all(".lora_" in key for key in load_file(tmp_path / "saved" / "adapter_model.safetensors"))
    again = load_policy(ModelArguments(str(tmp_path / "saved")))
    assert again.family == policy.family


# ---- experts, which transformers writes apart and keeps as one ---------------------------------------------------


@pytest.mark.parametrize("name", ["llada_moe", "sdar_moe", "llada2"])
def test_a_killed_run_resumes_bit_by_bit(tokenizer, make_sft, tmp_path, name):
    """transformers' trainer would find no expert in its own checkpoint, and go on from the first weights."""
    originals.write(name, tokenizer, tmp_path / "original")
    block = ORIGINALS[name].block_length
    blocks = {} if block is None else {"block_length": block, "max_completion_length": 16, "max_timesteps": 8}

    def make(output):
        policy = load_policy(ModelArguments(str(tmp_path / "original")), block_length=block)
        return make_sft(policy=policy, output_dir=str(output), max_steps=3, **SAVING, **blocks)

    assert_resumes_bit_by_bit(make, tmp_path, 2)
    checkpoint = str(tmp_path / "unbroken" / "checkpoint-2")
    again = load_policy(ModelArguments(checkpoint), block_length=block)
    stored = load_file(f"{checkpoint}/model.safetensors")
    assert any("experts.gate_up_proj" in key for key in stored)
    assert torch.equal(again.model.state_dict()["lm_head.weight"], stored["lm_head.weight"])


def test_a_checkpoint_that_lacks_weights_ends_the_run(policy_of, make_sft, tmp_path):
    trainer = make_sft(policy=policy_of("llada_moe"), output_dir=str(tmp_path), max_steps=2, **SAVING)
    trainer.train()
    file = tmp_path / "checkpoint-1" / "model.safetensors"
    kept = load_file(file)
    lost = next(key for key in kept if "experts.gate_up_proj" in key)
    save_file({key: value for key, value in kept.items() if key != lost}, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=rf"does not have the weights of this model: {lost} and 0 more are missing"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
