"""A prompt becomes the same tokens wherever it is asked, in the format that the model was trained in."""

import json
from dataclasses import replace

import pytest
from zoo import standins
from zoo.templates import TEMPLATES, templated

from trainers.models.families import AUTOREGRESSIVE, FAMILIES, SETTLED, Nature, nature_of
from trainers.models.formats import BARE, PromptFormat, declared_ends, settle_format, turn_end
from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError
from trainers.settings.task import TaskArguments

QUESTION = "Ann has 8 books.\nAnswer:"
SYSTEM = [{"role": "system", "content": "Count."}]
CHAT = [{"role": "user", "content": QUESTION}]
INSTRUCT, OTHER = FAMILIES["llada"], FAMILIES[AUTOREGRESSIVE]
HEADS = {  # of QUESTION, and of what ends the head of an answer
    "brackets": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "headers": "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "roles": "<role>HUMAN</role>{}<|role_end|><role>ASSISTANT</role>",
}


def settled(tokenizer, family=INSTRUCT, nature=None, declared=(), wanted="auto", system=None) -> PromptFormat:
    return settle_format(tokenizer, nature or Nature(), family, declared, wanted, system, "model")


@pytest.fixture(params=TEMPLATES)
def template(request):
    return request.param


@pytest.fixture
def own(tokenizer, template):
    return templated(tokenizer, template)


# ---- what a prompt becomes ------------------------------------------------------------------------------------------


def test_a_prompt_is_a_turn_of_the_template_up_to_the_head_of_the_answer(own, template):
    form = settled(own)
    assert form.render(own, QUESTION) == form.render(own, CHAT) == HEADS[template].format(QUESTION)
    (ids,) = form.encode(own, [QUESTION])
    assert own.decode(ids) == HEADS[template].format(QUESTION)


def test_the_first_token_of_a_text_is_not_doubled(tokenizer):
    own = templated(tokenizer, "headers")
    bos = own.bos_token_id
    assert own(QUESTION)["input_ids"][0] == bos, "the tokenizer adds it to a text by itself"
    form = settled(own)
    assert form.encode(own, [QUESTION])[0].count(bos) == 1
    assert form.join(own, QUESTION, "8")[0].count(bos) == 1
    assert BARE.encode(own, [QUESTION])[0][0] == bos


def test_training_and_rollout_have_the_same_prompt_and_a_completion_ends_its_turn(own, template):
    form = settled(own)
    end = own.convert_tokens_to_ids(TEMPLATES[template].tokens[0])
    for completion in ("#### 8", "\n\n#### 8", " 8", ""):
        prompt, ids = form.join(own, QUESTION, completion)
        assert prompt == form.encode(own, [QUESTION])[0]
        assert ids[-1] == end and ids.count(end) == 1 and own.eos_token_id not in ids
        assert own.decode(ids, skip_special_tokens=True) == completion, "the end is no part of a text"
    assert form.join(own, QUESTION, "8" + TEMPLATES[template].tokens[0]) == form.join(own, QUESTION, "8")


def test_bare_text_is_what_the_tokenizer_makes_of_it(tokenizer):
    texts = [QUESTION, "a"]
    assert BARE.encode(tokenizer, texts) == tokenizer(texts)["input_ids"]
    prompt, ids = BARE.join(tokenizer, QUESTION, "#### 8")
    assert prompt + ids == tokenizer(QUESTION + "#### 8[EOS]")["input_ids"] and ids[-1] == tokenizer.eos_token_id
    assert BARE.join(tokenizer, QUESTION, "#### 8[EOS]") == (prompt, ids)


def test_messages_may_hold_a_system_prompt_and_earlier_turns(own, template):
    form = settled(own)
    chat = SYSTEM + CHAT + [{"role": "assistant", "content": "8"}, {"role": "user", "content": "And now?"}]
    text = form.render(own, chat)
    assert text.index("Count.") < text.index(QUESTION) < text.index("And now?") and "Be kind." not in text


def test_system_prompt_of_the_option_stands_in_front_and_never_beside_another(own):
    form = settled(own, system="Count.")
    assert form.render(own, QUESTION) == replace(form, system_prompt=None).render(own, SYSTEM + CHAT)
    with pytest.raises(ConfigError, match=r"task.system_prompt='Count.': .* system message of its own, 'Count.'"):
        form.render(own, SYSTEM + CHAT)
    assert settled(own, system="").render(own, QUESTION) == settled(own).render(own, QUESTION)


def test_messages_without_a_template_are_one_clear_error(tokenizer):
    with pytest.raises(ConfigError, match=r"list of messages, .*: the tokenizer has none; set its chat_template"):
        BARE.encode(tokenizer, [CHAT])
    with pytest.raises(ConfigError, match=r"list of messages, .*task\.chat_template=false or auto .*; set true"):
        BARE.encode(templated(tokenizer, "roles"), [CHAT])


def test_what_a_template_refuses_is_one_line(tokenizer):
    own = templated(tokenizer, "roles")
    form = settled(own)
    with pytest.raises(ConfigError, match=r"does not take a chat of roles tool: unknown role tool"):
        form.render(own, [{"role": "tool", "content": "8"}])


# ---- where a completion ends ----------------------------------------------------------------------------------------


def test_the_end_of_a_turn_is_what_the_template_writes_behind_an_answer(own, template):
    assert own.convert_ids_to_tokens(turn_end(own)) == TEMPLATES[template].tokens[0]


def test_a_policy_stops_at_the_turn_s_end_and_at_every_declared_one_and_fills_with_its_eos(own, make_policy):
    end, declared = turn_end(own), [own.eos_token_id, own.pad_token_id, len(own) + 7]
    policy = Policy(make_policy().model, own, format=settled(own, declared=declared))
    assert policy.eos_ids == (own.eos_token_id, end, own.pad_token_id), "an id without a token is no end"
    assert replace(policy, format=BARE).eos_ids == (own.eos_token_id,)


def test_declared_ends_are_those_of_config_and_generation_config():
    class Ends:
        def __init__(self, ids):
            self.eos_token_id = ids

    assert declared_ends(Ends(3), Ends([5, 3]), Ends(None), None) == [3, 5]


# ---- which format ---------------------------------------------------------------------------------------------------


def test_auto_is_the_template_of_a_family_that_is_tuned_on_turns(own):
    assert settled(own).chat
    assert not settled(own, wanted="false").chat


def test_auto_is_bare_text_where_there_is_no_template(tokenizer):
    assert settled(tokenizer) == settled(tokenizer, OTHER) == BARE


def test_auto_is_bare_text_for_a_base_model_that_carries_the_template_of_its_instruct_model(own):
    """Qwen's base models do; their files call another token the end of a text than the end of a turn."""
    assert settled(own, OTHER) == settled(own, OTHER, declared=[own.eos_token_id]) == BARE
    assert settled(own, OTHER, declared=[own.eos_token_id, turn_end(own)]).chat
    assert settled(own, OTHER, wanted="true").chat
    own.eos_token = own.convert_ids_to_tokens(turn_end(own))
    assert settled(own, OTHER).chat


def test_auto_is_bare_text_where_the_template_s_tokens_are_none_of_the_vocabulary(tokenizer, template):
    """LLaDA's base model has not the tokens that its instruct model's template writes."""
    tokenizer.chat_template = TEMPLATES[template].text
    try:
        assert settled(tokenizer) == BARE
        with pytest.raises(ConfigError, match=r"task.chat_template=true: .* no special token .* behind an answer"):
            settled(tokenizer, wanted="true")
    finally:
        tokenizer.chat_template = None


def test_a_template_that_is_not_there_is_one_clear_error(tokenizer):
    with pytest.raises(ConfigError, match=r"^task.chat_template=true: the tokenizer of 'model' has no chat template$"):
        settled(tokenizer, wanted="true")


def test_a_system_prompt_without_a_template_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"task.system_prompt='Count.': 'model' is asked without a chat template"):
        settled(tokenizer, system="Count.")
    with pytest.raises(ConfigError, match=r"task.system_prompt='Count.': expected none with task.chat_template=false"):
        TaskArguments(chat_template="false", system_prompt="Count.")


def test_what_was_trained_here_is_asked_as_it_was_trained(own):
    trained = Nature(chat_template=True, system_prompt="Count.")
    assert settled(own, OTHER, trained).system_prompt == "Count."
    assert settled(own, OTHER, trained, system="Be quick.").system_prompt == "Be quick."
    assert settled(own, OTHER, trained, system="").system_prompt == ""
    assert settled(own, OTHER, trained, wanted="false") == BARE
    assert settled(own, INSTRUCT, Nature(chat_template=False)) == BARE
    assert settled(own, INSTRUCT, Nature(chat_template=False), wanted="true").chat


def test_a_checkpoint_of_before_the_option_was_trained_on_bare_text(own, make_policy):
    config = make_policy().model.config
    setattr(config, SETTLED, {"logit_shift": False, "attention": "bidirectional"})
    assert settled(own, INSTRUCT, nature_of(config, INSTRUCT)) == BARE


@pytest.mark.parametrize("name", ["llada", "qwen2"])
def test_the_format_is_saved_with_the_weights(tokenizer, tmp_path, name):
    standins.build(name, tokenizer, tmp_path / "base", template="brackets")
    given = standins.STAND_INS[name].arguments
    arguments = ModelArguments(str(tmp_path / "base"), **given)
    assert load_policy(arguments).format.chat == (name == "llada")
    policy = load_policy(arguments, chat_template="true", system_prompt="Count.")
    policy.model.save_pretrained(tmp_path / "trained")
    policy.tokenizer.save_pretrained(tmp_path / "trained")
    if name == "qwen2":  # LLaDA's code is no matter of this test
        again = load_policy(ModelArguments(str(tmp_path / "trained")))
        assert again.format == policy.format and again.eos_ids == policy.eos_ids
        assert again.encode([QUESTION]) == policy.encode([QUESTION])
    settled_there = json.loads((tmp_path / "trained" / "config.json").read_text())[SETTLED]
    assert (settled_there["chat_template"], settled_there["system_prompt"]) == (True, "Count.")
