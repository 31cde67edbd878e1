"""Every family of models is loaded for what it is, trains whole or by an adapter, is saved, reloaded as it was, and
writes texts."""

import json
from itertools import product

import pytest
import torch
from running import SMALL, fork
from transformers import CONFIG_MAPPING, PretrainedConfig
from watching import digit_reward
from zoo.standins import STAND_INS, load

from core.alpha_schedule import sync_masking_with_nelbo
from core.denoisers.attention import block_causal
from core.sampling import draw_keys
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.models.adapters import lora_config
from trainers.models.families import FAMILIES, family_of
from trainers.models.loading import load_policy
from trainers.rollouts import roll_out
from trainers.settings.model import ModelArguments
from trainers.settings.objects import build_generator, build_loss, build_masking
from trainers.settings.options import ConfigError

every_stand_in = pytest.mark.parametrize("name", STAND_INS)
TRAINED = ["llada", "llada_moe", "llada2", "dream", "sdar", "llama", "bert"]  # one of each family
TIED = ["llada_configured", "llada2_tied", "qwen2"]  # one tensor under two names, in three ways


def settings(kind, canvas):
    """Of a run on two or three blocks where there are blocks."""
    if kind.block_length is None:
        return {}
    return {"block_length": kind.block_length, "max_completion_length": canvas, "max_timesteps": 6}


def some_logits(policy, model=None):
    """Of every position but the first, of a row without padding."""
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(policy.tokenizer), (2, 3 * 7), generator=noise)
    rows = torch.ones_like(ids, dtype=torch.bool)
    rows[:, 0] = False
    mask = None
    if policy.block_length is not None:
        mask = block_causal(torch.ones_like(ids[:, :7]), 14, policy.block_length, policy.prompt_in_blocks)
    denoiser = policy.denoiser(model)
    with denoiser.evaluating():
        return denoiser.logits(ids, mask, rows)


def nature(policy):
    return policy.family, policy.logit_shift, policy.block_length, policy.prompt_in_blocks, policy.mask_id


def test_every_family_has_a_stand_in():
    assert {kind.family for kind in STAND_INS.values()} == set(FAMILIES)


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("LLaDAMoEModelLM", "llada_moe"),
        ("SDARMoeForCausalLM", "sdar"),
        ("Qwen3ForCausalLM", "autoregressive"),
        ("GPT2LMHeadModel", "autoregressive"),
        ("ModernBertForMaskedLM", "masked_lm"),
        ("LlamaForSequenceClassification", None),
        ("LlamaModel", None),
        ("RND1LM", None),
    ],
)
def test_an_architecture_belongs_to_one_family_or_to_none(architecture, family):
    config = PretrainedConfig(architectures=[architecture])
    if family is None:
        with pytest.raises(ValueError, match=f"{architecture}.*which no family has; known families: llada"):
            family_of(config)
    else:
        assert family_of(config) == (family, FAMILIES[family])


@pytest.mark.parametrize(
    "architecture, reason",
    [("Fast_dLLM_QwenForCausalLM", "blocks of its own and its logits are shifted"), ("BD3LM", "side by side")],
)
def test_an_architecture_that_no_denoiser_can_run_is_refused_with_its_reason(architecture, reason):
    with pytest.raises(ValueError, match=f"{architecture} is not supported: .*{reason}"):
        family_of(PretrainedConfig(architectures=[architecture]))


def test_files_that_name_the_same_type_of_model_are_kept_apart(stand_in, monkeypatch):
    """LLaDA's makes itself known as the config of every llada, which LLaDA-MoE calls itself too."""
    monkeypatch.delitem(CONFIG_MAPPING._extra_content, "llada", raising=False)
    for name in ("llada", "llada_moe", "llada"):
        assert load(name, stand_in(name)[0]).family == name
    assert "llada" not in CONFIG_MAPPING
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "llada", type(load("llada", stand_in("llada")[0]).model.config))
    assert load("llada_moe", stand_in("llada_moe")[0]).family == "llada_moe"
    assert "llada" in CONFIG_MAPPING  # as whoever loaded it without us left it


@every_stand_in
def test_a_checkpoint_is_read_as_its_family_says(stand_in, name):
    """Down to the logits of a model that was built and not loaded, whatever loading leaves out."""
    kind, (directory, written) = STAND_INS[name], stand_in(name)
    policy, known = load(name, directory), FAMILIES[kind.family].nature
    assert nature(policy) == (
        kind.family,
        known.logit_shift,
        kind.block_length,
        known.prompt_in_blocks,
        policy.tokenizer.convert_tokens_to_ids(kind.mask),
    )
    assert policy.model.config.mask_token_id == policy.mask_id and policy.tokenizer.mask_token == kind.mask
    expected = type(written)(policy.model.config)
    expected.load_state_dict(written.state_dict())
    assert torch.equal(some_logits(policy), some_logits(policy, expected))


@pytest.mark.parametrize(
    "name, adapted", [*product(TRAINED, (False, True)), *product(TIED, (False,))], ids=lambda value: str(value).lower()
)
def test_a_family_trains_is_saved_reloaded_as_it_was_and_writes(
    stand_in, make_sft, grpo_args, splits, tmp_path, name, adapted
):
    """GRPO, then SFT on what GRPO left; the directory alone says how the model is to be read."""
    kind, (directory, _) = STAND_INS[name], stand_in(name)
    policy = load(name, directory, use_peft=adapted)
    for method in ("grpo", "sft"):
        before = some_logits(policy)
        adapter = lora_config(ModelArguments(use_peft=adapted, lora_r=2 if adapted else None), policy.model)
        if method == "sft":
            options = settings(kind, 21)
            trainer = make_sft(policy=policy, peft_config=adapter, max_steps=3, **options)
        else:
            args = grpo_args(max_steps=3, learning_rate=1e-3, beta=0.1, **settings(kind, 14))
            trainer = ImprovedDiffuGRPOTrainer(
                policy, [digit_reward], args, splits["train"], splits["validation"], peft_config=adapter
            )
        trainer.train()
        losses = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
        norms = [entry["grad_norm"] for entry in losses]
        assert len(norms) == 3 and 0 < max(norms) < float("inf"), norms
        after = some_logits(policy, trainer.model)
        assert not torch.equal(after, before)

        saved = tmp_path / method
        trainer.save_model(str(saved))
        reloaded = load_policy(
            ModelArguments(model_name_or_path=str(saved), use_peft=adapted, **kind.trust),
            block_length=kind.block_length,
        )
        assert nature(reloaded) == nature(policy)
        assert torch.equal(some_logits(reloaded), after)
        policy = reloaded

    masking = build_masking(args)
    schedule = sync_masking_with_nelbo(masking, build_loss(args))
    sampler = build_generator(args, policy.denoiser(), schedule, masking, policy.tokenizer.eos_token_id)
    prompts = policy.tokenizer(list(splits["validation"]["prompt"]))["input_ids"]
    keys = draw_keys(len(prompts), torch.Generator().manual_seed(0))
    with policy.denoiser().evaluating():
        out = roll_out(sampler, prompts, keys, policy.tokenizer.pad_token_id, 4, torch.device("cpu"))
    assert len(out.completions()) == len(prompts) and not bool((out.ids == policy.mask_id).any())


# ---- the scripts -------------------------------------------------------------------------------------------------


def test_the_scripts_train_evaluate_and_continue_a_checkpoint_that_brings_its_code_along(stand_in, tmp_path):
    directory, _ = stand_in("llada")
    run = {"output_dir": "out", "save_strategy": "no"}
    document = {"trainer": "sft", **SMALL, "model": {"name_or_path": str(directory), **STAND_INS["llada"].trust}}
    document["training"] = SMALL["training"] | run
    (tmp_path / "config.yaml").write_text(json.dumps(document))
    assert "points gained" in fork("train.py", "config.yaml", cwd=tmp_path)
    trained = ("config.yaml", "--model.name_or_path", "out/model")
    assert "32 test problems" in fork("evaluate.py", *trained, cwd=tmp_path)
    assert "Tom has 3 pens." in fork("generate.py", *trained, "--prompt", "Tom has 3 pens.", cwd=tmp_path)


@pytest.mark.parametrize(
    "script, cache, said",
    [("train.py", "exact", 1), ("evaluate.py", "exact", 1), ("generate.py", "exact", 1), ("generate.py", "off", 0)],
)
def test_a_model_of_blocks_without_a_cache_is_told_of_wherever_it_is_run(edited, tmp_path, script, cache, said):
    """As LLaDA2's file was, which asked for what a cache did not have."""
    directory = edited(
        "llada2", "modeling_llada2_moe.py", "past_key_values.update(k, v, number, {})", "past_key_values.gone"
    )
    blocks = {"steps": 6, "max_completion_length": 21, "block_length": 7, "cache": cache}
    model = {"name_or_path": str(directory), **STAND_INS["llada2"].arguments}
    document = {"trainer": "sft", **SMALL, "model": model, "generation": blocks}
    document["training"] = SMALL["training"] | {"output_dir": "out", "save_strategy": "no"}
    (tmp_path / "config.yaml").write_text(json.dumps(document))
    told = fork(script, "config.yaml", cwd=tmp_path)
    assert told.count("generation.cache=exact: LLaDA2MoeModelLM stores no keys and values") == said


def test_code_is_run_only_if_the_user_says_so(stand_in, tmp_path):
    directory, _ = stand_in("llada")
    entries = json.loads((directory / "config.json").read_text()) | {"architectures": ["OtherForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=r"model\.trust_remote_code=False: .* brings code of its own along"):
        load_policy(ModelArguments(model_name_or_path=str(tmp_path)))


def test_code_that_does_not_run_here_is_one_line(stand_in, tmp_path):
    directory, _ = stand_in("llada")
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "modeling_llada.py").write_text("import nothing_that_is_installed\n")
    with pytest.raises(ConfigError, match=r"its own code cannot be imported.*nothing_that_is_installed"):
        load("llada", tmp_path)
