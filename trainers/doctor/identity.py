"""What a checkpoint was taken for: family, code, nature, and how its model is called."""

from collections.abc import Iterator

from trainers.doctor.findings import NOT_RUN, NOTE, OK, Finding
from trainers.doctor.patient import Patient
from trainers.models.policy import Policy, embedding_rows
from trainers.saving.kept_files import brings_code


def identity(patient: Patient) -> Iterator[Finding]:
    """Class, size, family, who sees whom, and where a token's logits stand."""
    policy = patient.policy
    model = policy.model
    weights = sum(weight.numel() for weight in model.parameters())
    dtype = str(model.dtype).removeprefix("torch.")
    whose = "its own code" if brings_code(policy) else "transformers' own class"
    yield Finding("model", OK, f"{type(model).__name__}, {weights:,} weights, {dtype}, {whose}")
    yield Finding("family", OK, f"{policy.family}: {nature(policy)}")
    yield Finding("attention kernel", OK, str(policy.kernel))
    yield called(policy)


def probes(patient: Patient) -> Iterator[Finding]:
    """What the probes of the loaded model measured, each number with the limit that it was held against."""
    if not patient.margins:
        yield Finding("probes", NOT_RUN, "model.probe=false")
    for margin in patient.margins:
        yield Finding("probe", OK, str(margin))


def nature(policy: Policy) -> str:
    """How it is read, as a sentence has it."""
    shift = "logits stand before their token" if policy.logit_shift else "logits stand at their token"
    if policy.block_length is None:
        return f"bidirectional, {shift}"
    counted = "counted from the start of the text" if policy.prompt_in_blocks else "behind a prompt of one block"
    return f"block-causal, blocks of {policy.block_length} tokens {counted}, {shift}"


def called(policy: Policy) -> Finding:
    """What is known of how the model takes what it is told; a detour that costs something is a note."""
    calling, slow = policy.calling, []
    if calling.padding == "none":
        slow.append("it ignores masks: one forward for every length of prompt")
    if not calling.head:
        slow.append("its head is run on all positions")
    if slow:
        return Finding("called", NOTE, "; ".join(slow))
    return Finding("called", OK, "padding masked, head on chosen positions")


def special_tokens(patient: Patient) -> Iterator[Finding]:
    """The tokens that hide, end and pad, and rows of the vocabulary that no token has."""
    policy = patient.policy
    tokenizer = policy.tokenizer
    texts = [(name, getattr(tokenizer, f"{name}_token"), getattr(tokenizer, f"{name}_token_id")) for name in NAMES]
    yield Finding("asked", OK, policy.format.told(tokenizer))
    yield Finding("special tokens", OK, ", ".join(f"{name} {text!r} (id {token})" for name, text, token in texts))
    rows, known = embedding_rows(policy.model), len(tokenizer)
    if rows > known:
        yield Finding("spare rows", NOTE, f"{rows - known} of {rows} rows have no token; they are never drawn")
    else:
        yield Finding("spare rows", OK, f"none: {known} tokens, {rows} rows")


NAMES = ("mask", "eos", "pad")
