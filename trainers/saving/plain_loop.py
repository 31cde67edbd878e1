"""The denoising loop in a few lines of plain transformers, written out for one model: what its card shows.

It is `core.generator` at temperature 0 with sampler count_matched and selection top1, for one prompt at a time.
"""

from itertools import pairwise

from transformers import PreTrainedTokenizerFast

from core.alpha_schedule import AlphaSchedule
from core.generator import DiffusionGenerator
from core.masking_strategy import FullMaskingStrategy
from trainers.models.policy import Policy, embedding_rows
from trainers.saving.kept_files import brings_code
from trainers.saving.provenance import Provenance

LOOP = """\
import torch
from transformers import {auto}, {tokens}

HERE = {here!r}  # the directory of these files, or their name on the hub
CANVAS, BLOCK = {canvas}, {block}  # tokens of a completion, and of a block of it
ENDS = {ends}  # tokens that end a completion
LEFT = {left}  # of a block, still masked after each step

tokenizer = {tokens}.from_pretrained(HERE{trust})
model = {auto}.from_pretrained(HERE{trust}).eval()


@torch.no_grad()
def complete(prompt):
{encode}    first, mask = ids.shape[1], tokenizer.mask_token_id
    ids = torch.cat([ids, torch.full((1, CANVAS), mask)], dim=1)
{rule}    for start in range({begin}, first + CANVAS, BLOCK):
{gone}        for left in LEFT:
            logits = model(input_ids=ids{attention}).logits[0].float()
{shift}            logits[:, mask] = -torch.inf
{spare}            sure, tokens = logits.softmax(dim=1).max(dim=1)
            masked = ids[0] == mask
            masked[:first] = masked[start + BLOCK :] = False
            best = sure.masked_fill(~masked, -1).topk(int(masked.sum()) - {left_here}).indices
            ids[0, best] = tokens[best]
    text = ids[0, first:].tolist()
    end = next((place for place, token in enumerate(text) if token in ENDS), CANVAS)
    return tokenizer.decode(text[:end], skip_special_tokens=True)


print(complete({example!r}))
"""
SPARE = "            logits[:, {start}:{stop}] = -torch.inf  # no token has these ids\n"
ENCODE = {  # a text, or the messages of a chat in the model's template, which writes its special tokens itself
    False: """\
    ids = tokenizer(prompt, return_tensors="pt").input_ids
""",
    True: """\
    prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
""",
}
SHIFT = "            logits = logits.roll(1, dims=0)  # the logit at a position predicts the token after it\n"
# the prompt is a block of its own, or blocks are counted from its start
BLOCKS = {
    False: "    block = ((torch.arange(first + CANVAS) - first) // BLOCK).clamp(min=-1)\n",
    True: "    block = torch.arange(first + CANVAS) // BLOCK\n",
}
# where they are, the first and the last one lie on the canvas in part
PARTIAL = {
    "begin": "first - first % BLOCK",
    "gone": "        gone = BLOCK - int((ids[0, start : start + BLOCK] == mask).sum())  # not ours to reveal\n",
    "left_here": "max(0, left - gone)",
}
WHOLE = {"begin": "first", "gone": "", "left_here": "left"}
RULE = "    visible = (block[:, None] >= block)[None, None]  # earlier blocks and the own one\n"


def plain_loop(policy: Policy, provenance: Provenance, auto: str, here: str = ".") -> str | None:
    """Python source of the loop; None where plain transformers has no such loop.

    Args:
        policy: the model.
        provenance: how it is sampled.
        auto: transformers' class that loads it.
        here: what the source says its files are.
    """
    known = provenance.sampling
    odd = policy.calling.attention not in (None, "sdpa") and policy.block_length is not None
    if known["prediction_type"] != "masked" or odd:
        return None
    example = provenance.example or "Once upon a time"
    trust = ", trust_remote_code=True" if brings_code(policy) else ""
    # transformers' AutoTokenizer would take the class of the model's kind, such as Qwen's, whose rules are others
    generic = type(policy.tokenizer) is PreTrainedTokenizerFast and not trust
    rule = "" if policy.block_length is None else BLOCKS[policy.prompt_in_blocks] + RULE
    return LOOP.format(
        auto=auto,
        tokens="PreTrainedTokenizerFast" if generic else "AutoTokenizer",
        here=here,
        ends=list(policy.eos_ids),
        encode=ENCODE[policy.format.chat],
        canvas=known["max_completion_length"],
        block=known["block_length"] or known["max_completion_length"],
        left=still_masked(policy, provenance),
        trust=trust,
        rule=rule,
        **(PARTIAL if policy.prompt_in_blocks else WHOLE),
        attention=", attention_mask=visible" if rule else "",
        spare=_without_tokens(policy),
        shift=SHIFT if policy.logit_shift else "",
        example=policy.format.messages(example) if policy.format.chat else example,
    )


def _without_tokens(policy: Policy) -> str:
    """The lines that exclude what is never predicted beside the mask token."""
    rows, mask = embedding_rows(policy.model), slice(policy.mask_id, policy.mask_id + 1)
    spare = (tokens for tokens in policy.never if tokens != mask and tokens.start < rows)
    return "".join(SPARE.format(start=tokens.start, stop=tokens.stop or "") for tokens in spare)


def still_masked(policy: Policy, provenance: Provenance) -> list[int]:
    """Masked tokens of a block after each evaluation, on the schedule: descending, to 0."""
    known = provenance.sampling
    schedule = AlphaSchedule(
        known["alpha_schedule"], known["max_timesteps"], alpha_min=known["alpha_min"], alpha_max=known["alpha_max"]
    )
    generator = DiffusionGenerator(
        policy.denoiser(),
        schedule,
        FullMaskingStrategy(0.0),
        known["max_completion_length"],
        known["block_length"],
        counts=known["counts"],
    )
    counts = [generator.masked_at(t) for t in generator.grid()]
    return [after for before, after in pairwise(counts) if after < before]
