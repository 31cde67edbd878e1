"""A denoiser of a few thousand weights, its tokenizer, problems, and trainers on them."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, dynamic_module_utils
from watching import Watching, digit_reward
from zoo import standins

from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.models.policy import Policy
from trainers.models.tiny import build_tokenizer
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.sft import DiffusionSFTConfig
from trainers.sft.trainer import DiffusionSFTTrainer
from trainers.tasks import gsm8k

torch.set_num_threads(1)  # waiting threads spin when cores are shared

CANVAS, STEPS = 14, 7


@pytest.fixture(scope="session")
def splits():
    return gsm8k.load_splits(
        data_files=None,
        dataset_name=None,
        train_size=200,
        validation_size=8,
        test_size=24,
        seed=0,
        min_operations=1,
        max_operations=1,
        max_number=20,
    )


@pytest.fixture(scope="session")
def tokenizer(splits):
    train = splits["train"]
    return build_tokenizer(p + c for p, c in zip(train["prompt"], train["completion"], strict=True))


def build_micro(tokenizer, seed=0, layers=1, causal=False, **overrides):
    """A Llama of width 32, bidirectional unless ``causal``, whose weights depend on the seed alone."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=512,
        is_causal=causal,
        use_cache=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.3,  # states matter, so that a wrong state shows in the log-probs
        **overrides,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():  # louder rows: random completions then have early ends, and digits to reward
        model.lm_head.weight[tokenizer.eos_token_id] *= 3
        model.lm_head.weight[tokenizer.convert_tokens_to_ids(list("0123456789"))] *= 2
    return model


@pytest.fixture(scope="session")
def make_micro():
    return build_micro


@pytest.fixture
def make_policy(tokenizer):
    return lambda seed=0, **kwargs: Policy(build_micro(tokenizer, seed, **kwargs), tokenizer)


@pytest.fixture(scope="session", autouse=True)
def own_modules(tmp_path_factory):
    """transformers copies code that a checkpoint brings along to one place a process, from its first use on: ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="session")
def stand_in(tokenizer, tmp_path_factory):
    """name -> (directory, the model as it was written), of `zoo.standins`."""
    known = {}

    def built(name):
        if name not in known:
            known[name] = standins.build(name, tokenizer, tmp_path_factory.mktemp(name))
        return known[name]

    return built


@pytest.fixture(scope="session")
def model_dir(tokenizer, tmp_path_factory):
    """The micro model on disk, as model.name_or_path wants it."""
    path = tmp_path_factory.mktemp("micro")
    build_micro(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def grpo_args(tmp_path):
    def build(**overrides):
        base = {
            "output_dir": str(tmp_path / "out"),
            "max_timesteps": STEPS,
            "max_completion_length": CANVAS,
            "p_mask_prompt": 0.0,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "num_generations": 4,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 0,
        }
        if overrides.get("likelihood", "trajectory_nelbo") == "trajectory_nelbo":
            base["nelbo_replay"] = "drawn"  # the replay that leaves most to chance
        return ImprovedDiffuGRPOConfig(**(base | overrides))

    return build


@pytest.fixture
def make_grpo(make_policy, grpo_args, splits):
    """A GRPO trainer on the micro model; keywords are options, `policy`, `cls`, `reward` or trainer arguments."""

    def build(*, policy=None, cls=ImprovedDiffuGRPOTrainer, reward=digit_reward, peft_config=None, **options):
        return cls(
            policy or make_policy(),
            [reward],
            grpo_args(**options),
            splits["train"],
            splits["validation"],
            peft_config=peft_config,
        )

    return build


@pytest.fixture
def make_watching(make_grpo):
    return lambda **options: make_grpo(cls=Watching, **options)


@pytest.fixture
def make_sft(make_policy, tmp_path, splits):
    def build(*, policy=None, train=None, peft_config=None, **overrides):
        base = {
            "output_dir": str(tmp_path / "sft"),
            "max_timesteps": STEPS,
            "max_completion_length": 20,
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
        args = DiffusionSFTConfig(**(base | overrides))
        train = splits["train"] if train is None else train
        policy = policy or make_policy()
        return DiffusionSFTTrainer(policy, args, train, splits["validation"], peft_config=peft_config)

    return build
