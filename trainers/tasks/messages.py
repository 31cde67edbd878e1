"""What a prompt may be: a text, or the messages of a chat that ask for the next one."""

from typing import Any

Message = dict[str, str]  # {"role": ..., "content": ...}
Prompt = str | list[Message]


def flaw_of(prompt: Any) -> str | None:
    """What is wrong with a prompt, in a few words; None: nothing."""
    if not isinstance(prompt, str | list) or not prompt:
        return "the prompt is not a text or a list of messages, or empty"
    for message in [] if isinstance(prompt, str) else prompt:
        fields = message if isinstance(message, dict) else {}
        if not all(isinstance(fields.get(name), str) and fields[name] for name in ("role", "content")):
            return f"a message of the prompt is {message!r}; expected a text each for role and content"
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant":
        return "the last message of the prompt is the assistant's; expected the one that it answers"
    return None


def text_of(prompt: Prompt) -> str:
    """What a prompt says, for tables and for a tokenizer to be trained on: of messages their contents, a line each."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
