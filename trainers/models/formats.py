"""The format in which a model is asked: the bare text of a prompt, or a turn in the model's own chat template.

An instruct model was tuned on turns: <turn of the user> <head of its own turn> answer <end of the turn>. Off that
format it is another, worse model. `PromptFormat` is the one place where a prompt becomes tokens, in training,
evaluation and generation alike, so that a completion is learned behind the very tokens that it is later asked with.

In a chat, the prompt ends with the head of the assistant's turn (the template's generation prompt). A template writes
its special tokens itself, so none are added when its text is tokenised. A completion ends with the first token that
the template writes behind an answer (<|im_end|>, <|eot_id|>), or with any that the checkpoint's files call an end;
the rest of the canvas is filled with the tokenizer's eos, as LLaDA (2502.09992, section 2.3) and Dream were tuned.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AddedToken, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging
from trl.data_utils import common_prefix_length

from trainers.models.families import Family, Nature
from trainers.settings.options import ConfigError
from trainers.tasks.messages import Message, Prompt

logger: Any = logging.get_logger(__name__)  # transformers adds warning_once to it
ANSWER = "forty-two"  # stands for an answer where a template is asked what comes behind one


@dataclass(frozen=True)
class PromptFormat:
    """How prompts and completions become tokens.

    Attributes:
        chat: in the tokenizer's chat template; else as bare text.
        system_prompt: of a chat; None: what the template does by itself; empty: nothing of ours, whatever a checkpoint
            was trained with.
        turn_ends: ids that end a completion of a chat, the turn's own end first.
    """

    chat: bool = False
    system_prompt: str | None = None
    turn_ends: tuple[int, ...] = ()

    def describe(self) -> dict[str, Any]:
        """What shows in completions, by the names of the options; empty: bare text."""
        if not self.chat:
            return {}
        return {"task.chat_template": "true", "task.system_prompt": self.system_prompt}

    def told(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The format in a few words, for people."""
        if not self.chat:
            return "as bare text"
        system = f" with the system prompt {self.system_prompt!r}" if self.system_prompt else ""
        ends = " or ".join(f"`{tokenizer.convert_ids_to_tokens(one)}`" for one in self.turn_ends)
        return f"in the tokenizer's chat template{system}, completions end with {ends}"

    def messages(self, prompt: Prompt) -> list[Message]:
        """The chat that a prompt is: a text is what the user says.

        Raises:
            ConfigError: two system prompts, the problem's own and the option's.
        """
        if isinstance(prompt, str):
            chat = [{"role": "user", "content": prompt}]
        else:
            chat = [{"role": message["role"], "content": message["content"]} for message in prompt]
        if not self.system_prompt:
            return chat
        if chat[0]["role"] == "system":
            raise ConfigError(
                f"task.system_prompt={self.system_prompt!r}: a prompt begins with a system message of its own, "
                f"{chat[0]['content']!r}"
            )
        return [{"role": "system", "content": self.system_prompt}, *chat]

    def render(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
        """The text of a prompt, behind which a completion starts.

        Raises:
            ConfigError: messages without a template, or a template that does not take them.
        """
        if self.chat:
            return _templated(tokenizer, self.messages(prompt), add_generation_prompt=True)
        if not isinstance(prompt, str):
            asked = (
                "the tokenizer has none; set its chat_template, or give prompts as texts"
                if tokenizer.chat_template is None
                else "this model is asked without its own, as task.chat_template=false or auto settled it; set true "
                "(in Python: load_policy(..., chat_template='true'))"
            )
            raise ConfigError(f"a prompt is a list of messages, of which only a chat template makes a text: {asked}")
        return prompt

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts. A template has written whatever stands before a text."""
        return tokenizer(list(texts), add_special_tokens=not self.chat)["input_ids"]

    def encode(self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts."""
        return self.tokenize(tokenizer, [self.render(tokenizer, prompt) for prompt in prompts])

    def join(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, completion: str) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of a completion with its end, as a model learns them.

        Bare text is tokenised as a whole and cut where it leaves that of the prompt alone. A turn's head ends with a
        token of its own, so the two parts of a chat are tokenised apart: the prompt is the one of a rollout.
        """
        if self.chat:
            ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
            ended = bool(ids) and ids[-1] in (*self.turn_ends, tokenizer.eos_token_id)
            return self.encode(tokenizer, [prompt])[0], ids if ended else [*ids, self.turn_ends[0]]
        text, eos = self.render(tokenizer, prompt), str(tokenizer.eos_token)
        ended = completion if completion.endswith(eos) else completion + eos
        given, whole = self.tokenize(tokenizer, [text, text + ended])
        start = common_prefix_length(given, whole)
        if start < len(given):
            logger.warning_once(
                f"the last tokens of a prompt, {tokenizer.decode(given[start:])!r}, are others once a completion "
                "follows: a text is learned behind another prompt than it is asked with. End prompts where tokens end."
            )
        return whole[:start], whole[start:]


BARE = PromptFormat()


def settle_format(
    tokenizer: PreTrainedTokenizerBase,
    nature: Nature,
    family: Family,
    declared: Collection[int],
    chat_template: str,
    system_prompt: str | None,
    name: str,
) -> PromptFormat:
    """The format of a model.

    ``auto`` is the format in which it was trained: what was settled when it was trained here; else the tokenizer's
    template, where there is one whose turns end with a token of the vocabulary, for a family that is tuned on turns.
    Of other families (an autoregressive model that is to become a denoiser) base models carry the template of their
    instruct models too: there the end of a turn must be one that the model's own files call an end of text.

    Args:
        tokenizer: complete; the end of a turn is made special in it, so that no decoded text holds it.
        nature: what was settled, if it was.
        family: of the model.
        declared: ids that the model's files call an end.
        chat_template: auto, true or false.
        system_prompt: as the user says; None: as it was trained.
        name: of the model, for messages.

    Raises:
        ConfigError: a template is asked for and there is none, or none with an end of turns; a system prompt without
            a template.
    """
    wanted = {"true": True, "false": False}.get(chat_template, nature.chat_template)
    if wanted is None:
        wanted = _tuned_on_turns(tokenizer, family, declared)
    if not wanted:
        if system_prompt:
            raise ConfigError(
                f"task.system_prompt={system_prompt!r}: {name!r} is asked without a chat template "
                f"(task.chat_template={chat_template}), which alone has a place for it"
            )
        return BARE
    if tokenizer.chat_template is None:
        raise ConfigError(f"task.chat_template={chat_template}: the tokenizer of {name!r} has no chat template")
    end = turn_end(tokenizer)
    if end is None:
        raise ConfigError(
            f"task.chat_template={chat_template}: the chat template of {name!r} writes no special token of its "
            "tokenizer behind an answer, so that nothing says where a completion ends; set false"
        )
    ends = tuple(dict.fromkeys((end, *(one for one in declared if one < len(tokenizer)))))
    _make_special(tokenizer, ends)
    return PromptFormat(True, nature.system_prompt if system_prompt is None else system_prompt, ends)


def declared_ends(*configs: PretrainedConfig | GenerationConfig | None) -> list[int]:
    """The ids that a model's files call an end of text."""
    found = []
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        found += ids if isinstance(ids, list | tuple) else [ids]
    return [one for one in dict.fromkeys(found) if isinstance(one, int)]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first special token that the chat template writes behind an answer; None: there is none."""
    chat = [{"role": "user", "content": "What is six times seven?"}, {"role": "assistant", "content": ANSWER}]
    _, answer, behind = _templated(tokenizer, chat).rpartition(ANSWER)
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if answer else []
    return next((token for token in ids if token in tokenizer.added_tokens_decoder), None)


def _tuned_on_turns(tokenizer: PreTrainedTokenizerBase, family: Family, declared: Collection[int]) -> bool:
    if tokenizer.chat_template is None:
        return False
    try:
        end = turn_end(tokenizer)
    except ConfigError:  # a template that takes no chat of two messages is not for this
        return False
    return end is not None and (family.tuned_on_turns or end in (*declared, tokenizer.eos_token_id))


def _templated(tokenizer: PreTrainedTokenizerBase, chat: list[Message], **options: Any) -> str:
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, **options)
    except Exception as error:  # a template is code of the checkpoint
        roles = ", ".join(message["role"] for message in chat)
        raise ConfigError(
            f"task.chat_template: the tokenizer's template does not take a chat of roles {roles}: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    assert isinstance(text, str)
    return text


def _make_special(tokenizer: PreTrainedTokenizerBase, tokens: Collection[int]) -> None:
    """A decoded completion is what its writer meant, without the token that ends it: a tokenizer that brings code
    along (Dream's) drops those alone that it has by name, whatever its list of added tokens says."""
    known, texts = set(tokenizer.all_special_tokens), tokenizer.convert_ids_to_tokens(list(tokens))
    more = [AddedToken(text, special=True, normalized=False) for text in texts if text not in known]
    if more:
        tokenizer.add_special_tokens({"extra_special_tokens": more}, replace_extra_special_tokens=False)
