"""Families of models: what each is, where its own files do not say it, as one record.

A checkpoint is recognised by the architecture that its config names, never by its path. What a record says is a claim;
`trainers.models.probes` checks it against the weights. What was settled for a policy is written into its config under
`SETTLED`, so that a saved model is loaded as it was trained.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MethodType
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from trainers.models import suggestions
from trainers.models.suggestions import Suggestion

SETTLED = "diffusion"  # attribute of a saved config: see `Nature.record`
MASKED_LM = "ForMaskedLM"
BLOCK_KEYS = ("block_length", "block_size", "bd_size")  # of configs; Fast-dLLM v2 (2509.26328) has the last


@dataclass(frozen=True)
class Nature:
    """How a model is to be read.

    Attributes:
        logit_shift: the logit at position i predicts the token at i + 1.
        attention: bidirectional, or block_causal.
        prompt_in_blocks: a block-causal model that was trained on blocks of the whole text, its prompt included.
        block_length: tokens of a block of a block-causal model, where it is known.
        chat_template: whether it was trained on prompts in its tokenizer's chat template; None: not settled.
        system_prompt: with which, beside what the template does by itself; None: none.
    """

    logit_shift: bool = False
    attention: str = "bidirectional"
    prompt_in_blocks: bool = False
    block_length: int | None = None
    chat_template: bool | None = None
    system_prompt: str | None = None

    def record(self, family: str) -> dict[str, Any]:
        """What goes into a saved config: itself, and the family, which a native model's architecture does not say."""
        return {"family": family, **vars(self)}


@dataclass(frozen=True)
class Family:
    """Models that are read alike.

    Attributes:
        architectures: names in ``config.architectures``; one that begins with * stands for all that end so.
        nature: see `Nature`.
        mask_tokens: texts of its mask token, where neither tokenizer nor config names it.
        mask_id: the mask token's id, where its text is not known either.
        checkpoint_activations: turns on the model's own activation checkpointing; None: transformers' switch works.
        block_length: tokens of a block that its checkpoints were trained with, where their config names none.
        tuned_on_turns: its checkpoints are instruct models, whose format is their chat template (`formats`).
        suggested: canvas, steps, block and learning rate of published runs.
    """

    architectures: tuple[str, ...]
    nature: Nature = Nature()
    mask_tokens: tuple[str, ...] = ()
    mask_id: int | None = None
    block_length: int | None = None
    checkpoint_activations: Callable[[nn.Module], None] | None = None
    tuned_on_turns: bool = False
    suggested: tuple[Suggestion, ...] = ()

    def holds(self, architecture: str) -> bool:
        """Whether a config's architecture is one of these."""
        return any(fnmatchcase(architecture, pattern) for pattern in self.architectures)


def _checkpoint_llada(model: nn.Module) -> None:
    """LLaDA's file keeps its switch on the inner model: an enumeration of strategies, named in its own module."""
    name = "set_activation_checkpointing"
    switch: MethodType = next(getattr(module, name) for module in model.modules() if hasattr(module, name))
    # the enumeration is found where the class was defined: remote code has no importable name
    strategies = switch.__func__.__globals__["ActivationCheckpointingStrategy"]
    switch(strategies.whole_layer)


# Any autoregressive decoder, read in both directions; its shift is what it was trained with (DiffuLLaMA, 2410.17891).
AUTOREGRESSIVE = "autoregressive"
FAMILIES: dict[str, Family] = {
    # 2502.09992; its tokenizer has the token, but does not call it the mask
    "llada": Family(
        ("LLaDAModelLM",),
        mask_tokens=("<|mdm_mask|>",),
        mask_id=126336,
        checkpoint_activations=_checkpoint_llada,
        tuned_on_turns=True,
        suggested=suggestions.LLADA,
    ),
    "llada_moe": Family(  # 2509.24389
        ("LLaDAMoEModelLM",), mask_tokens=("<|mask|>", "<|mdm_mask|>"), tuned_on_turns=True
    ),
    "llada2": Family(  # 2512.15745
        ("LLaDA2MoeModelLM",),
        Nature(attention="block_causal", prompt_in_blocks=True),
        mask_tokens=("<|mask|>",),
        block_length=32,
        tuned_on_turns=True,
        suggested=suggestions.LLADA2,
    ),
    "dream": Family(  # 2508.15487
        ("DreamModel",),
        Nature(logit_shift=True),
        mask_tokens=("<|mask|>",),
        tuned_on_turns=True,
        suggested=suggestions.DREAM,
    ),
    "sdar": Family(  # 2510.06303
        ("SDARForCausalLM", "SDARMoeForCausalLM"),
        Nature(attention="block_causal", prompt_in_blocks=True),
        mask_tokens=("<|MASK|>",),
        tuned_on_turns=True,
        suggested=suggestions.SDAR,
    ),
    "a2d": Family(  # decoders of the project dllm, trained on masks
        ("A2D*LMHeadModel",), mask_tokens=("<|mask|>",), suggested=suggestions.A2D
    ),
    "masked_lm": Family((f"*{MASKED_LM}",)),  # BERT, ModernBERT: trained on masks
    AUTOREGRESSIVE: Family(("*ForCausalLM", "*LMHeadModel"), Nature(logit_shift=True)),
}

# Architectures that a pattern above takes for what they are not, or that no denoiser here can run: name -> reason.
REFUSED = {
    "Fast_dLLM_QwenForCausalLM": "Fast-dLLM v2 (2509.26328) attends in blocks of its own and its logits are shifted: "
    "the first token of a block is predicted from outside of it, which no denoiser here does",
    "BD3LM": "BD3-LM (2503.09573) reads a noised text and a clean one side by side, and wants to know the noise level",
}


def family_of(config: PretrainedConfig) -> tuple[str, Family]:
    """The family of a checkpoint: as it was settled, else by the first architecture that its config names.

    Raises:
        ValueError: no architecture, one of no family, or one that cannot be run.
    """
    settled = getattr(config, SETTLED, None)
    if isinstance(settled, dict) and "family" in settled:
        if settled["family"] not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ValueError(f"its config names the family {settled['family']!r}; known families: {known}")
        return settled["family"], FAMILIES[settled["family"]]
    architectures = config.architectures or []
    if architectures and architectures[0] in REFUSED:
        raise ValueError(f"{architectures[0]} is not supported: {REFUSED[architectures[0]]}")
    for name, family in FAMILIES.items():
        if architectures and family.holds(architectures[0]):
            return name, family
    raise ValueError(
        f"its config names the architectures {architectures}, which no family has; known families: "
        + ", ".join(f"{name} ({', '.join(family.architectures)})" for name, family in FAMILIES.items())
    )


def said_block_length(entries: dict[str, Any], family: Family) -> int | None:
    """Tokens of a block, as a block-causal model was trained here, as its config names them, or as its family was
    trained; None: nobody says."""
    settled = (entries.get(SETTLED) or {}).get("block_length")
    return settled or next(filter(None, map(entries.get, BLOCK_KEYS)), None) or family.block_length


def settled_nature(settled: dict[str, Any]) -> Nature:
    """What a saved config says under `SETTLED`: a mapping, of which the family is not a part of the nature."""
    return Nature(**{name: value for name, value in dict(settled).items() if name != "family"})


def nature_of(config: PretrainedConfig, family: Family) -> Nature:
    """How a checkpoint is to be read: as its config was settled when it was trained here, else as its family.

    An autoregressive architecture that its config already calls bidirectional was trained on masks, in place.
    """
    settled = getattr(config, SETTLED, None)
    if settled is not None:
        # what was saved without a format was trained on bare text
        return settled_nature({"chat_template": False} | settled)
    if family is FAMILIES[AUTOREGRESSIVE] and getattr(config, "is_causal", True) is False:
        return Nature()
    return family.nature
