"""A model that its user already holds becomes a policy: recognised and examined as one that is loaded by name."""

from typing import cast

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainers.models.families import FAMILIES
from trainers.models.loading import load_tokenizer
from trainers.models.policy import Policy
from trainers.models.settling import Loaded, Wishes, recognise, settled
from trainers.models.special_tokens import name_mask_token
from trainers.settings.model import ModelArguments
from trainers.settings.options import ConfigError


def policy_around(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    block_length: int | None = None,
    trust_remote_code: bool = False,
) -> Policy:
    """The policy that a model in memory is.

    Args:
        model: its config is changed in place: a causal model becomes bidirectional, as one that is loaded by name.
        tokenizer: changed in place; None: that of the checkpoint which the model says it was loaded from.
        block_length: of the sampler, tokens; where the model is block-causal, its own.
        trust_remote_code: whether the tokenizer may bring code along.

    Raises:
        ConfigError: there is no tokenizer, the model is of no known family, has an adapter inside that it does not
            know of, or is not what its family and its config say.
    """
    inside = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
    name, shown = source_of(model), source_of(model) or type(inside).__name__
    refuse_hidden_adapter(model)
    arguments = ModelArguments(model_name_or_path=shown, trust_remote_code=trust_remote_code)
    if tokenizer is None:
        if not name:
            raise ConfigError(
                f"processing_class=None: this {shown} does not say where it was loaded from; pass its tokenizer"
            )
        tokenizer = load_tokenizer(arguments)
    config = inside.config
    if not config.architectures:  # transformers writes it when a model is saved
        config.architectures = [type(inside).__name__]
    family, nature = recognise(config, shown)
    name_mask_token(tokenizer, inside, FAMILIES[family], arguments)
    # a PeftModel hands on what it is asked for beside its own
    loaded = Loaded(family, nature, tokenizer, cast(PreTrainedModel, model))
    return settled(loaded, arguments, Wishes(block_length), name)


def source_of(model: PreTrainedModel | PeftModel) -> str:
    """What a model was loaded from, a hub id or a directory; empty: it was not."""
    return getattr(model.config, "_name_or_path", "")


def refuse_hidden_adapter(model: PreTrainedModel | PeftModel) -> None:
    """Raise ConfigError for a bare model with the layers of an adapter inside: peft puts them there in place, around
    which an earlier trainer has a PeftModel that alone knows how to save and to train them."""
    if isinstance(model, PeftModel):
        return
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ConfigError(
            f"model: this {type(model).__name__} has the layers of an adapter inside, which an earlier trainer put "
            "there; pass that trainer's own `trainer.model`, or load the model again"
        )
