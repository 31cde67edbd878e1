"""From weights and a tokenizer to a policy: how both are to be read, and whether the model is what is said of it.

What a model is comes from its family (`trainers.models.families`) and its own config, is overridden by the user's
options, and is then seen by running it (`trainers.models.probes`). The result is written into the config, so that what
is saved is loaded as it was trained. `loading` brings models from files, `in_memory` those that a user holds.
"""

from dataclasses import dataclass, replace
from typing import cast

from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from trainers.models.adapters import Adapter
from trainers.models.families import AUTOREGRESSIVE, FAMILIES, SETTLED, Nature, family_of, nature_of
from trainers.models.formats import declared_ends, settle_format
from trainers.models.policy import Policy
from trainers.models.probes.looking import Examiner
from trainers.models.probes.probing import probed
from trainers.models.special_tokens import complete_tokenizer
from trainers.models.told import as_told
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError
from trainers.settings.task import AUTO


@dataclass(frozen=True)
class Loaded:
    """A model as it was found: in the files of a checkpoint, in memory, or made afresh.

    Attributes:
        family: a name of `FAMILIES`.
        nature: how the model is to be read, before the user's options.
        tokenizer, model: text and weights; of an adapter, those of its base model.
    """

    family: str
    nature: Nature
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel


@dataclass(frozen=True)
class Wishes:
    """What a run says of a model beside the model section.

    Attributes:
        block_length: of the sampler, tokens; where the model is block-causal, its own.
        chat_template, system_prompt: of the task section.
    """

    block_length: int | None = None
    chat_template: str = AUTO
    system_prompt: str | None = None


def recognise(config: PretrainedConfig, name: str, known: str | None = None) -> tuple[str, Nature]:
    """Family and nature of a model; an autoregressive one is made bidirectional.

    Args:
        config: the model's; changed in place.
        name: of the model, for messages.
        known: the family, where something else than the config says it.

    Raises:
        ConfigError: no family has such a model.
    """
    try:
        family, record = family_of(config) if known is None else (known, FAMILIES[known])
        nature = nature_of(config, record)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model.name_or_path={name!r}: {error}") from error
    if family == AUTOREGRESSIVE:
        config.is_causal = False
    config.use_cache = False
    if getattr(config, "output_router_logits", False):  # of a mixture of experts: nobody reads them
        config.output_router_logits = False
    return family, nature


def settled(
    loaded: Loaded, arguments: ModelArguments, wishes: Wishes, name: str, adapter: Adapter | None = None
) -> Policy:
    """The policy that a model is, once its files, its family and its user have spoken.

    Args:
        loaded: the model; its config and its tokenizer are changed in place.
        arguments: the model section; its name stands in messages.
        wishes: what the run says of it.
        name: see `Policy.name`.
        adapter: what is to be put around the model, or merged into it.

    Raises:
        ConfigError: tokenizer or model lack what a diffusion model needs, or the model is not what it is said to be.
    """
    model, family = loaded.model, FAMILIES[loaded.family]
    nature = as_told(loaded.nature, family, model.config, arguments, wishes.block_length)
    complete_tokenizer(loaded.tokenizer, arguments.model_name_or_path)
    if getattr(model, "generation_config", None) is None:  # TRL writes to it
        model.generation_config = GenerationConfig()
    ends = declared_ends(model.config, model.generation_config)
    asked = wishes.chat_template, wishes.system_prompt, arguments.model_name_or_path
    form = settle_format(loaded.tokenizer, nature, family, ends, *asked)
    nature = replace(nature, chat_template=form.chat, system_prompt=form.system_prompt)
    setattr(model.config, SETTLED, nature.record(loaded.family))
    # a PeftModel hands on what it is asked for beside its own
    policy = Policy(
        model if adapter is None else cast(PreTrainedModel, adapter.applied_to(model, arguments)),
        loaded.tokenizer,
        logit_shift=nature.logit_shift,
        block_length=nature.block_length,
        prompt_in_blocks=nature.prompt_in_blocks,
        family=loaded.family,
        name=name,
        format=form,
    )
    return probed(policy, Examiner(arguments.model_name_or_path)) if arguments.probe else policy
