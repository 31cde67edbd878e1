"""Settings of the model: where it comes from, how it is read, what of it is trained."""
# ruff: noqa: RUF009 (`option` is dataclasses.field with its metadata)

from dataclasses import dataclass

import torch
from transformers.utils import is_bitsandbytes_available

from trainers.settings.hub_names import hub_id
from trainers.settings.options import check_known, only_with, option, refusal, require

ATTENTIONS = ("bidirectional", "block_causal")
DTYPES = ("float32", "bfloat16", "float16", "auto")
CODES = ("auto", "native", "remote")


@dataclass
class ModelArguments:
    """Which denoiser is trained, and how."""

    model_name_or_path: str = option(
        "model",
        "tiny",
        "'tiny' (the embedded model, trainers/models/tiny.py), 'smollm2-135m' (trainers/models/smollm2.py), a hub "
        "checkpoint or its short name (llada-8b, ...: trainers/settings/hub_names.py), a local directory, or the "
        "directory of a LoRA adapter.",
        key="name_or_path",
    )
    from_scratch: bool = option("model", False, "Fresh weights for the named architecture instead of trained ones.")
    dtype: str = option("model", "float32", "Dtype of the weights.", known=DTYPES)
    attn_implementation: str | None = option("model", None, "Attention kernel, such as sdpa; unset: the model's own.")
    attention: str | None = option(
        "model",
        None,
        "Who sees whom: bidirectional, or block_causal (BD3-LM, 2503.09573): a token sees the prompt, earlier blocks "
        "of generation.block_length tokens and its own, so that keys and values of finished blocks stay valid. Unset: "
        "as the checkpoint was trained here, or as its family (trainers/models/families.py).",
        known=ATTENTIONS,
    )
    logit_shift: bool | None = option(
        "model",
        None,
        "Whether the logit at a position predicts the token after it, as in Dream (2508.15487) and in models that "
        "were autoregressive. Unset: as the checkpoint was trained here, or as its family.",
    )
    mask_token: str | None = option(
        "model",
        None,
        "Text of the token that hides others; unset: as tokenizer, config or family say. A model that has none takes "
        "a special token that no text uses.",
    )
    probe: bool = option(
        "model", True, "Check mask token, shift, attention rule and padding by forward passes when a model is loaded."
    )
    code: str = option(
        "model",
        "auto",
        "Whose code runs the model: native, transformers' own class, into which weights of LLaDA, LLaDA-MoE, LLaDA2, "
        "Dream, SDAR, TraDo and A2D are read (trainers/models/native/); remote, the files that the checkpoint brings "
        "along; auto, native where that is known.",
        known=CODES,
    )
    trust_remote_code: bool = option(
        "model", False, "Run code that a checkpoint brings along, where it is not read natively; TRL is told the same."
    )
    safetensors_only: bool = option(
        "model", True, "Load weights from safetensors alone; other files can run code when they are read."
    )
    load_in_4bit: bool = option(
        "model", False, "Quantise the frozen weights to 4 bits (QLoRA, 2305.14314); with use_peft, on CUDA only."
    )
    use_peft: bool = option("model", False, "Train a LoRA adapter (2106.09685) instead of all weights.")
    adapter_base: str | None = option(
        "model", None, "The base model of the adapter that name_or_path names, where it is not what the adapter says."
    )
    # unset: as given, and of an adapter that is trained on its own; see trainers/models/adapters.py
    lora_r: int | None = option("model", None, "LoRA rank; unset: 16.")
    lora_alpha: int | None = option(
        "model", None, "LoRA scale: the update is multiplied by lora_alpha / lora_r; unset: 32."
    )
    lora_dropout: float | None = option(
        "model", None, "LoRA dropout probability; unset: 0, which keeps the policy ratio free of noise."
    )
    lora_target_modules: list[str] | None = option(
        "model",
        None,
        "Modules that get adapters; unset: all linear layers but the head, and of a mixture of experts those of its "
        "attention alone.",
    )

    def __post_init__(self):
        check_known(self)
        self.model_name_or_path = hub_id(self.model_name_or_path)
        self.adapter_base = self.adapter_base and hub_id(self.adapter_base)
        for name in ("lora_r", "lora_alpha"):
            value = getattr(self, name)
            require(self, name, value is None or value >= 1, "at least 1")
        dropout = self.lora_dropout is None or 0 <= self.lora_dropout < 1
        require(self, "lora_dropout", dropout, "a probability in [0, 1)")
        trained = not (self.use_peft and self.from_scratch)
        require(self, "use_peft", trained, "false with model.from_scratch: nobody keeps what is beneath the adapter")
        require(self, "mask_token", self.mask_token != "", "the text of a token")
        trusted = self.trust_remote_code or self.code != "remote"
        require(self, "code", trusted, "auto or native, or model.trust_remote_code=true")
        only_with(self, ["load_in_4bit"], self.use_peft, "model.use_peft=true: 4-bit weights cannot be trained")
        cuda = torch.cuda.is_available() or not self.load_in_4bit
        require(self, "load_in_4bit", cuda, "false: bitsandbytes needs CUDA, which this machine does not have")
        if self.load_in_4bit and not is_bitsandbytes_available():
            needs = "needs the package bitsandbytes: pip install 'trajectory-nelbo[quantized]'"
            raise refusal(self, "load_in_4bit", needs)
