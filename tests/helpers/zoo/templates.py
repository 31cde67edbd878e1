"""Chat templates with the habits of those that public checkpoints bring along, and tokenizers that have them."""

import json
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

# Turns in brackets, and a system prompt of its own where a chat has none; an answer that is part of the chat may be
# shown behind an empty thought, which the head of a turn to be written does not have.
BRACKETS = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n</think>\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# It writes the first token of a text itself, trims what is said, and ends with the head of an answer, asked or not.
HEADERS = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) + '<|eot_id|>' }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
# Other names of roles, none that it does not know, and no line break around what is said.
ROLES = (
    "{% set names = {'system': 'SYSTEM', 'user': 'HUMAN', 'assistant': 'ASSISTANT'} %}"
    "{% for m in messages %}{% if m.role not in names %}{{ raise_exception('unknown role ' + m.role) }}{% endif %}"
    "{{ '<role>' + names[m.role] + '</role>' + m.content + '<|role_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}"
)


@dataclass(frozen=True)
class Template:
    """A template and its tokens.

    Attributes:
        text: in jinja.
        tokens: that it writes; the first ends a turn.
        special: whether its tokenizer calls them special, so that decoding may leave them out.
        bos: a first token of texts, which the tokenizer puts in front of them by itself too.
    """

    text: str
    tokens: tuple[str, ...]
    special: bool = True
    bos: str | None = None


TEMPLATES = {
    "brackets": Template(BRACKETS, ("<|im_end|>", "<|im_start|>")),
    "headers": Template(HEADERS, ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"), bos="<|startoftext|>"),
    "roles": Template(ROLES, ("<|role_end|>", "<role>", "</role>"), special=False),
}


def templated(tokenizer: PreTrainedTokenizerFast, name: str) -> PreTrainedTokenizerFast:
    """A copy of a tokenizer that has a chat template and its tokens."""
    template = TEMPLATES[name]
    backend = Tokenizer.from_str(json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())))
    add = backend.add_special_tokens if template.special else backend.add_tokens
    add([AddedToken(text, special=template.special, normalized=False) for text in template.tokens])
    names = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if key.endswith("_token")}
    if template.bos is not None:
        backend.add_special_tokens([template.bos])
        first = [(template.bos, backend.token_to_id(template.bos))]
        backend.post_processor = TemplateProcessing(single=f"{template.bos} $A", special_tokens=first)
        names["bos_token"] = template.bos
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template.text, padding_side=tokenizer.padding_side, **names
    )
