"""Whatever a constructor is given as its model is the same policy in the end, or is refused in one line."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM
from zoo.standins import STAND_INS

from trainers.inputs.model import fitting, model_arguments, policy_of
from trainers.models.families import SETTLED
from trainers.models.in_memory import policy_around
from trainers.models.loading import load_policy
from trainers.models.probes.looking import logits_from
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError
from trainers.settings.sft import DiffusionSFTConfig


@pytest.fixture
def args(tmp_path):
    return lambda **options: DiffusionSFTConfig(str(tmp_path), report_to="none", **options)


def logits(policy):
    ids = torch.tensor([[3, policy.mask_id, 5, 6, policy.mask_id]])
    policy.model.eval()
    with torch.no_grad():
        return logits_from(policy.denoiser(), ids, None)


# ---- three ways, one policy -----------------------------------------------------------------------------------------


def test_a_name_a_model_in_memory_and_a_policy_are_one_policy(model_dir, args):
    """The model in memory is loaded as plain transformers loads it: causal, until it is made bidirectional."""
    name = str(model_dir)
    held = AutoModelForCausalLM.from_pretrained(name)
    by_name, in_memory = policy_of(name, args()), policy_of(held, args())
    assert policy_of(by_name, args()) is by_name
    assert in_memory.model is held and in_memory.name == by_name.name == name
    for field in ("logit_shift", "block_length", "calling", "family", "format"):
        assert getattr(in_memory, field) == getattr(by_name, field), field
    assert in_memory.mask_id == by_name.mask_id and in_memory.eos_ids == by_name.eos_ids
    assert torch.equal(logits(in_memory), logits(by_name))
    assert getattr(held.config, SETTLED)["family"] == "autoregressive"


def test_a_causal_model_in_memory_sees_both_ways_afterwards(tokenizer, make_micro):
    policy = policy_around(make_micro(tokenizer, causal=True), copy.deepcopy(tokenizer))
    assert policy.logit_shift and policy.model.config.is_causal is False
    ids = torch.tensor([[3, 4, 5, 6]])
    other = ids.clone()
    other[0, -1] = 9
    with torch.no_grad():
        first, second = (policy.model.eval()(row, use_cache=False).logits[0, 0] for row in (ids, other))
    assert (first - second).abs().max() > 1e-3


def test_a_model_in_memory_brings_its_own_tokenizer_or_says_where_it_is(tokenizer, make_micro, model_dir, args):
    unnamed = make_micro(tokenizer)
    with pytest.raises(ConfigError, match="this LlamaForCausalLM does not say where it was loaded from"):
        policy_of(unnamed, args())
    own = copy.deepcopy(tokenizer)
    policy = policy_of(unnamed, args(), own)
    assert policy.tokenizer is own and policy.name == ""
    given = AutoTokenizer.from_pretrained(str(model_dir))
    assert policy_of(str(model_dir), args(), given).tokenizer is given


def test_a_model_in_memory_is_examined_as_one_that_is_loaded(tokenizer, args):
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    blind = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), is_decoder=True, initializer_range=0.5, **size))
    with pytest.raises(ConfigError, match="is causal"):
        policy_of(blind, args(), copy.deepcopy(tokenizer))


def test_a_trained_adapter_around_a_model_stays_around_it(tokenizer, make_micro, args):
    adapted = get_peft_model(make_micro(tokenizer), LoraConfig(r=2, target_modules="all-linear"))
    policy = policy_of(adapted, args(), copy.deepcopy(tokenizer))
    assert policy.model is adapted
    with pytest.raises(ConfigError, match="the model has an adapter already"):
        fitting(LoraConfig(), policy)


# ---- what does not fit ----------------------------------------------------------------------------------------------


def test_layers_of_an_earlier_trainers_adapter_are_found(make_policy, args):
    policy = make_policy()
    get_peft_model(policy.model, LoraConfig(r=2, target_modules="all-linear"))  # in place
    for held in (policy, policy.model):
        with pytest.raises(ConfigError, match="layers of an adapter inside, which an earlier trainer put there"):
            policy_of(held, args(), policy.tokenizer)


def test_the_tokenizer_of_a_policy_is_its_own(make_policy, args, tokenizer):
    policy = make_policy()
    assert policy_of(policy, args(), policy.tokenizer) is policy
    with pytest.raises(ConfigError, match="processing_class: a policy has its own tokenizer"):
        policy_of(policy, args(), copy.deepcopy(tokenizer))
    with pytest.raises(ConfigError, match="processing_class=str: expected a tokenizer"):
        policy_of("tiny", args(), "tiny")


def test_what_is_no_model_is_refused(args):
    with pytest.raises(
        ConfigError, match=r"model=Linear: expected the name of a model, a PreTrainedModel or a Policy"
    ):
        policy_of(torch.nn.Linear(1, 1), args())


def test_a_block_causal_model_in_memory_wants_the_options_of_one(stand_in, args):
    path, _ = stand_in("llada2")
    told = {"max_completion_length": 8, "max_timesteps": 8, "block_length": 4}
    held = load_policy(ModelArguments(str(path), **STAND_INS["llada2"].arguments), block_length=4)
    policy = policy_of(held.model, args(**told), held.tokenizer)
    assert policy.block_length == 4 and policy.calling == held.calling
    for wrong, named in (
        ({"block_length": None}, "block_length"),
        ({"scheduled_sampling_max_step_offset": 2}, "0 for"),
    ):
        with pytest.raises(ConfigError, match=named):
            policy_of(held.model, args(**told | wrong), held.tokenizer)


# ---- TRL's words for how a model is loaded --------------------------------------------------------------------------


def test_init_kwargs_of_trl_load_the_model(args):
    told = {"dtype": torch.bfloat16, "attn_implementation": "eager", "use_cache": False, "device_map": None}
    found = model_arguments("tiny", args(model_init_kwargs=told, trust_remote_code=True))
    assert found == ModelArguments("tiny", dtype="bfloat16", attn_implementation="eager", trust_remote_code=True)
    assert policy_of("tiny", args(model_init_kwargs=told)).model.dtype == torch.bfloat16
    assert model_arguments("tiny", args(model_init_kwargs='{"torch_dtype": "float16"}')).dtype == "float16"
    assert model_arguments("tiny", args()) == ModelArguments()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"revision": "v1"}, r"revision='v1': download it with huggingface_hub\.snapshot_download"),
        ({"device_map": "auto"}, "device_map='auto': the trainer places the model"),
        ({"num_labels": 2}, "num_labels=2: expected some of dtype, torch_dtype, attn_implementation"),
        ({"dtype": "int8"}, r"model\.dtype='int8': expected one of float32"),
    ],
    ids=str,
)
def test_an_init_kwarg_that_has_no_place_is_refused_by_name(args, told, message):
    with pytest.raises(ConfigError, match=message):
        policy_of("tiny", args(model_init_kwargs=told))


def test_init_kwargs_of_a_model_that_is_there_are_refused(make_policy, args):
    with pytest.raises(ConfigError, match=r"training\.model_init_kwargs=.*the model is there already"):
        policy_of(make_policy(), args(model_init_kwargs={"dtype": "bfloat16"}))


# ---- LoRA -----------------------------------------------------------------------------------------------------------


def test_a_wrapper_of_peft_that_does_not_fit_is_exchanged(stand_in, make_policy):
    """Code that a checkpoint brings along has not what peft's wrapper for causal models calls."""
    path, _ = stand_in("llada")
    asked = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    remote = load_policy(ModelArguments(str(path), trust_remote_code=True, code="remote"))
    found = fitting(asked, remote)
    assert found.task_type is None and asked.task_type == "CAUSAL_LM"
    get_peft_model(remote.model, found)
    assert fitting(asked, make_policy()) is asked
    with pytest.raises(ConfigError, match="peft_config=dict: expected settings of peft"):
        fitting({"r": 2}, make_policy())
