"""A directory of a LoRA adapter is a model: merged, evaluated, trained on, with a reference, and told by itself."""

import copy
import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from resumes import SAVING, assert_resumes_bit_by_bit
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM
from watching import REUSED, equal, nudge, state
from zoo.standins import STAND_INS, build

from core.alpha_schedule import AlphaSchedule
from core.generator import DiffusionGenerator
from core.masking_strategy import FullMaskingStrategy
from core.sampling import draw_keys
from core.scoring import Draws
from trainers.grpo.scoring import Scorer
from trainers.grpo.states import DRAWS, StoredStates
from trainers.models.adapters import CONFIG, WEIGHTS, lora_config, match_reference
from trainers.models.loading import load_policy
from trainers.models.tiny import TINY_ASSETS
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError

SHAPE = {"use_peft": True, "lora_r": 3, "lora_alpha": 6}


def loaded(path, **options):
    return load_policy(ModelArguments(model_name_or_path=str(path), **options))


def write_adapter(base, directory, make_grpo, **options):
    """An adapter on ``base`` as a run leaves it, its weights far from where they started."""
    policy = loaded(base, **(SHAPE | options))
    adapter = lora_config(ModelArguments(**SHAPE), policy.model)
    trainer = make_grpo(policy=policy, peft_config=adapter)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=noise))
    trainer.save_model(str(directory))
    return directory


@pytest.fixture
def adapter_dir(model_dir, make_grpo, tmp_path):
    return write_adapter(model_dir, tmp_path / "adapter", make_grpo)


def completions(policy, temperature, rows=6, length=14):
    masking, schedule = FullMaskingStrategy(0.0), AlphaSchedule("cosine", 8)
    sampler = DiffusionGenerator(
        policy.denoiser(), schedule, masking, length, temperature=temperature, block_length=policy.block_length
    )
    prompt = policy.tokenizer(["Ann has 8 books."] * rows, return_tensors="pt")
    policy.model.eval()
    keys = draw_keys(rows, torch.Generator().manual_seed(3))
    return sampler.generate(prompt["input_ids"], prompt["attention_mask"], keys)


def spread(completions, **kwargs):
    """A reward that differs between any texts."""
    return [float(sum(map(ord, text)) % 7) for text in completions]


# --- as a model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_merged_adapter_writes_the_tokens_of_the_adapter_and_not_those_of_its_base(
    adapter_dir, model_dir, temperature
):
    applied, merged, base = loaded(adapter_dir, use_peft=True), loaded(adapter_dir), loaded(model_dir)
    assert isinstance(applied.model, PeftModel) and type(merged.model) is LlamaForCausalLM
    found = [completions(policy, temperature) for policy in (applied, merged, base)]
    assert torch.equal(found[0].ids, found[1].ids) and not torch.equal(found[1].ids, found[2].ids)
    # W x + (B A) x against (W + B A) x in float32: rounding alone, on logits of about 10
    torch.testing.assert_close(found[0].commit_logps, found[1].commit_logps, rtol=0, atol=1e-4)


def test_settings_of_the_policy_come_with_the_adapter(model_dir, make_grpo, tmp_path):
    base = tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|hide|>"]})
    model = LlamaForCausalLM.from_pretrained(model_dir)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    told = {"mask_token": "<|hide|>", "logit_shift": True}
    write_adapter(base, tmp_path / "adapter", make_grpo, **told)
    plain = loaded(base)
    assert (plain.tokenizer.mask_token, plain.logit_shift) == ("[MASK]", False)
    for options in ({}, {"use_peft": True}):
        policy = loaded(tmp_path / "adapter", **options)
        assert (policy.tokenizer.mask_token, policy.logit_shift) == ("<|hide|>", True)
        assert policy.model.config.mask_token_id == policy.mask_id == len(tokenizer) - 1


@pytest.mark.skipif(not TINY_ASSETS.is_dir(), reason="no warm start is shipped")
def test_base_with_a_name_of_its_own_is_found_by_it_on_any_machine(make_grpo, tmp_path):
    directory = write_adapter("tiny", tmp_path / "adapter", make_grpo)
    assert json.loads((directory / CONFIG).read_text())["base_model_name_or_path"] == "tiny"
    for path in directory.glob("*"):
        if path.suffix in (".json", ".md"):
            assert str(TINY_ASSETS) not in path.read_text(), path.name
    again = loaded(directory, use_peft=True)
    assert again.name == "tiny"
    again.model.save_pretrained(tmp_path / "again")  # by peft alone, nothing of it looks for a hub
    torch.testing.assert_close(load_file(tmp_path / "again" / WEIGHTS), load_file(directory / WEIGHTS))


def test_moved_base_is_named_by_an_option(adapter_dir, model_dir, tmp_path):
    expected = completions(loaded(adapter_dir), 0.0).ids
    moved = shutil.copytree(model_dir, tmp_path / "moved")
    config = adapter_dir / CONFIG
    config.write_text(config.read_text().replace(str(model_dir), str(tmp_path / "gone")))
    with pytest.raises(ConfigError, match=r"gone.*model\.adapter_base"):
        loaded(adapter_dir)
    assert torch.equal(completions(loaded(adapter_dir, adapter_base=str(moved)), 0.0).ids, expected)


# --- what cannot be used ------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-50])


def write(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_finite_weights(directory):
    weights = load_file(directory / WEIGHTS)
    save_file({name: value * float("nan") for name, value in weights.items()}, directory / WEIGHTS)


DAMAGES = {
    "missing weights": (lambda d: (d / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "truncated weights": (lambda d: truncate(d / WEIGHTS), f"{WEIGHTS} is damaged"),
    "malformed config": (lambda d: (d / CONFIG).write_text('{"r": '), f"{CONFIG} is damaged"),
    "malformed nature": (lambda d: (d / "config.json").write_text("[]"), "config.json is damaged"),
    "another method": (lambda d: write(d / CONFIG, peft_type="IA3", feedforward_modules=[]), "expected a LoRA"),
    "no base": (lambda d: write(d / CONFIG, base_model_name_or_path=None), "set model.adapter_base"),
    "another rank": (lambda d: write(d / CONFIG, r=4), "does not fit"),
    "fewer modules": (lambda d: write(d / CONFIG, target_modules=["q_proj"]), "weights are on one side only"),
    "more modules": (lambda d: write(d / CONFIG, target_modules=["q_proj", "lm_head"]), "on one side only"),
    "not finite": (without_finite_weights, "cannot be merged"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_adapter_is_one_line_that_names_it(adapter_dir, name):
    damage, message = DAMAGES[name]
    damage(adapter_dir)
    with pytest.raises(ConfigError) as error:
        loaded(adapter_dir)
    assert "\n" not in str(error.value)
    assert f"model.name_or_path={str(adapter_dir)!r}" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("shape", [{"layers": 2}, {"layers": 1, "wide": True}], ids=["deeper", "wider"])
def test_base_of_another_shape_is_refused(adapter_dir, make_policy, tokenizer, tmp_path, shape):
    model = make_policy(layers=shape["layers"]).model
    if "wide" in shape:
        model = LlamaForCausalLM(
            copy.deepcopy(model.config).__class__(**(model.config.to_dict() | {"hidden_size": 64}))
        )
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="does not fit"):
        loaded(adapter_dir, adapter_base=str(tmp_path / "other"))


def test_adapter_on_an_adapter_is_refused(adapter_dir, tmp_path):
    second = shutil.copytree(adapter_dir, tmp_path / "second")
    with pytest.raises(ConfigError, match=r"is the directory of an adapter itself.*export"):
        loaded(second, adapter_base=str(adapter_dir))


@pytest.mark.parametrize(
    ("option", "value"),
    [("lora_r", 16), ("lora_alpha", 32), ("lora_dropout", 0.1), ("lora_target_modules", ["q_proj"])],
)
def test_adapter_is_trained_on_in_its_own_shape_or_not_at_all(adapter_dir, option, value):
    with pytest.raises(ConfigError, match=rf"model\.{option}=.*: expected .*, or unset"):
        loaded(adapter_dir, use_peft=True, **{option: value})
    own = {"lora_r": 3, "lora_alpha": 6, "lora_dropout": 0.0, "lora_target_modules": None}
    assert loaded(adapter_dir, use_peft=True, **own).model.peft_config["default"].r == 3


def test_base_of_an_adapter_is_for_adapters(model_dir):
    with pytest.raises(ConfigError, match=r"model\.adapter_base='x': only for the directory of an adapter"):
        loaded(model_dir, adapter_base="x")


def test_adapter_on_weights_that_nobody_keeps_is_refused():
    with pytest.raises(ConfigError, match=r"model\.use_peft=True: expected false with model\.from_scratch"):
        ModelArguments(use_peft=True, from_scratch=True)


# --- training on ----------------------------------------------------------------------------------------------------


def test_adapter_is_trained_on_and_its_base_is_not(adapter_dir, make_grpo, tmp_path):
    policy = loaded(adapter_dir, use_peft=True)
    trainer = make_grpo(policy=policy, peft_config=lora_config(ModelArguments(use_peft=True), policy.model), beta=0.1)
    before = state(trainer.model)
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(".lora_" in name and ".default." in name for name in moved)
    trainer.save_model(str(tmp_path / "on"))
    assert not (tmp_path / "on" / "ref").exists(), "the reference is part of a run, not of its model"
    first, second = (json.loads((path / CONFIG).read_text()) for path in (adapter_dir, tmp_path / "on"))
    assert (second["base_model_name_or_path"], second["r"]) == (first["base_model_name_or_path"], 3)


@pytest.mark.parametrize("start", ["fresh", "trained"])
def test_reference_is_what_the_run_started_from(adapter_dir, model_dir, make_watching, start):
    """Fresh adapter: its base. Adapter that is trained on: the adapter as it was, not its base."""
    path = model_dir if start == "fresh" else adapter_dir
    arguments = ModelArguments(model_name_or_path=str(path), use_peft=True)
    policy = load_policy(arguments)
    adapter = lora_config(arguments, policy.model)
    trainer = make_watching(policy=policy, peft_config=adapter, max_steps=8, beta=0.1, **REUSED)
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history[:-1]]
    assert kl[0] == 0.0 and min(kl[1:]) > 0
    assert torch.equal(trainer.micro_batches[0]["current"], trainer.micro_batches[0]["ref"])

    # the second rollout comes after updates; its reference is scored by plain weights of the start, loaded anew
    batch, plain = trainer.batches[1], loaded(path)  # merged, if it is an adapter
    scorer = Scorer(plain, trainer.likelihood, trainer.args.temperature, trainer.meter)
    states = StoredStates(batch["canvas_ids"], batch["commit_logps"], Draws.from_dict(batch, DRAWS))
    prompts, width = (batch["prompt_ids"], batch["prompt_mask"]), batch["completion_ids"].size(1)
    with torch.no_grad():
        expected = scorer.of_rollout(plain.model, prompts, states, len(states.canvas_ids))[..., :width]
    torch.testing.assert_close(batch["ref_per_token_logps"], expected, rtol=0, atol=2e-4)  # merged or not: rounding
    assert (batch["ref_per_token_logps"] - batch["old_per_token_logps"]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["llada", "dream", "sdar", "qwen2", "bert"])
def test_reference_of_weights_that_were_changed_in_memory_is_the_changed_ones(name, tokenizer, make_grpo, tmp_path):
    kind = STAND_INS[name]
    build(name, tokenizer, tmp_path / "base")
    policy = load_policy(ModelArguments(str(tmp_path / "base"), **kind.arguments), block_length=kind.block_length)
    nudge(policy.model)
    changed = state(policy.model)
    trainer = make_grpo(policy=policy, reward=spread, beta=0.1, block_length=kind.block_length, max_timesteps=8)
    trainer.train()
    assert equal(state(trainer.ref_model), changed) and not equal(state(trainer.model), changed)
    kl = [entry["kl"] for entry in trainer.state.log_history[:-1]]
    # the same numbers elsewhere in memory: a product may be summed up in another order
    assert abs(kl[0]) < 1e-6 < kl[1]


def test_killed_run_on_an_adapter_resumes_bit_by_bit(adapter_dir, make_grpo, tmp_path):
    def make(path):
        policy = loaded(adapter_dir, use_peft=True)
        return make_grpo(policy=policy, output_dir=str(path), max_steps=4, num_iterations=2, beta=0.1, **SAVING)

    assert_resumes_bit_by_bit(make, tmp_path, 3)


def test_resumed_reference_is_that_of_the_run_and_not_what_stands_in_its_place(adapter_dir, make_grpo, tmp_path):
    """A run may write its model over the adapter that it started from."""
    options = {"output_dir": str(tmp_path / "out"), "beta": 0.1, **SAVING}
    trainer = make_grpo(policy=loaded(adapter_dir, use_peft=True), max_steps=1, **options)
    expected = {name: value.clone() for name, value in state(trainer.model).items() if ".ref." in name}
    trainer.train()
    trainer.save_model(str(adapter_dir))
    resumed = make_grpo(policy=loaded(adapter_dir, use_peft=True), max_steps=2, **options)
    assert any(not torch.equal(value, resumed.model.state_dict()[name]) for name, value in expected.items())
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert expected and all(torch.equal(value, resumed.model.state_dict()[name]) for name, value in expected.items())


def test_copy_of_an_adapter_for_the_reference_takes_its_dtype(make_policy):
    """TRL rounds the adapter of a 4-bit model to bfloat16, and not its copy: the ratio between them would not be 1."""
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(make_policy().model, config)
    model.add_adapter("ref", config)
    for name, weight in model.named_parameters():
        if ".default." in name:
            weight.data = torch.randn_like(weight).to(torch.bfloat16)
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(weight.data)
    match_reference(model)
    weights = dict(model.named_parameters())
    pairs = [
        (value, weights[name.replace(".default.", ".ref.")]) for name, value in weights.items() if ".default." in name
    ]
    assert pairs and all(torch.equal(a, b) and a.dtype == b.dtype == torch.bfloat16 for a, b in pairs)
    assert all(value.dtype == torch.float32 for name, value in weights.items() if "lora_" not in name)


@pytest.mark.parametrize("name", STAND_INS)
def test_every_family_trains_an_adapter_and_reads_it_again(name, tokenizer, make_grpo, tmp_path):
    kind = STAND_INS[name]
    blocks = kind.block_length
    build(name, tokenizer, tmp_path / "base")
    told = ModelArguments(str(tmp_path / "base"), use_peft=True, lora_r=2, **kind.arguments)
    policy = load_policy(told, block_length=blocks)
    trainer = make_grpo(
        policy=policy,
        peft_config=lora_config(told, policy.model),
        reward=spread,
        beta=0.1,
        block_length=blocks,
        max_timesteps=8,
    )
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history[:-1]]
    assert kl[0] == 0.0 < kl[1]
    trainer.save_model(str(tmp_path / "adapter"))
    for use_peft in (False, True):
        again = ModelArguments(str(tmp_path / "adapter"), use_peft=use_peft, **kind.trust)
        read = load_policy(again, block_length=blocks)
        assert (read.mask_id, read.logit_shift, read.calling) == (policy.mask_id, policy.logit_shift, policy.calling)
        found, expected = (completions(p, 1.0, rows=3) for p in (read, policy))
        assert torch.equal(found.ids, expected.ids)
        torch.testing.assert_close(found.commit_logps, expected.commit_logps, rtol=0, atol=1e-3)
