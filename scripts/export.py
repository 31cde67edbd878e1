"""Write a trained model as plain transformers loads it.

One directory of safetensors, tokenizer, config and model card.

    python scripts/export.py runs/.../model --output exported [--dtype bfloat16]
    python scripts/export.py CONFIG --model.name_or_path runs/.../checkpoint-100 --output exported
    python scripts/export.py runs/.../model --output exported --format original [--original NAME] [--keep_adapter]

The first form takes what the directory says of itself, the second what the config says. An adapter is merged into its
base model in the dtype that it is loaded in, and rounded afterwards. A model that brings code along keeps it, and the
tokenizer files that came with it.

LLaDA, Dream, SDAR and others are trained as classes of transformers. The third form gives such a model the names, code
and tokenizer of its original back, which NAME (a directory or hub id) has; an adapter may be kept apart.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from trainers.commands import OptionParser, main_or_one_line
from trainers.settings.options import ConfigError
from trainers.settings.parser import Request
from trainers.settings.shipped import SUFFIXES, find_or_none

DTYPES = ("float32", "bfloat16", "float16")
FORMATS = ("transformers", "original")


def main(argv: list[str]) -> None:
    """Load a policy, merge its adapter if it has one, and save it with tokenizer and model card."""
    options, request = parse(argv)

    # only now: these take seconds to import, which a typo does not wait for
    import torch
    from peft import PeftModel

    from trainers.models.adapters import SHAPE
    from trainers.models.loading import load_policy
    from trainers.saving.exporting import export_original, export_plain
    from trainers.saving.model_card import write_card
    from trainers.saving.provenance import Provenance, portable, read_provenance
    from trainers.settings.config import build
    from trainers.settings.grpo import ImprovedDiffuGRPOConfig
    from trainers.settings.model import ModelArguments

    # what is exported is neither an adapter nor quantised, whatever it was trained as
    plain = dict.fromkeys(SHAPE) | {"use_peft": options.keep_adapter, "load_in_4bit": False}
    if request is not None:
        config = build(request)
        model, args = config.model, config.training
        block_length = args.block_length
    else:
        model = ModelArguments(model_name_or_path=options.source, trust_remote_code=options.trust_remote_code)
        args, block_length = None, settled_block_length(Path(options.source))
    policy = load_policy(replace(model, **plain), block_length=block_length)
    if options.dtype:
        policy.move_to(getattr(torch, options.dtype))

    known = read_provenance(Path(model.model_name_or_path))
    if known is None:
        known = Provenance.of(args or ImprovedDiffuGRPOConfig(output_dir=str(options.output)), policy.name)
    if options.keep_adapter and not isinstance(policy.model, PeftModel):
        raise ConfigError(f"--keep_adapter: {model.model_name_or_path!r} is no adapter")
    original = ""
    if options.format == "original":
        original = options.original or known.base
        export_original(policy, original, options.output)
    else:
        export_plain(policy, options.output)
    write_card(options.output, policy, known, options.keep_adapter, portable(original))
    Console().print(f"exported: {options.output}", soft_wrap=True)


def parse(argv: list[str]) -> tuple[argparse.Namespace, Request | None]:
    """The command's options, and the config's request where the source is one."""
    own = OptionParser(__doc__, settings=True)
    own.add_word("SOURCE", "A model's name or directory; or a config, whose settings may follow.")
    own.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="A folder that is not there yet.")
    own.add_argument("--dtype", choices=DTYPES, default=None, help="Dtype of the written weights. Unset: as loaded.")
    own.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="Names of the weights, and files beside.")
    own.add_argument(
        "--original",
        default=None,
        metavar="NAME",
        help="Where the original's files are. Unset: as trained.",
    )
    own.add_argument("--keep_adapter", action="store_true", help="Do not merge an adapter; with --format original.")
    own.add_argument("--trust_remote_code", action="store_true", help="Run code that the model brings along.")
    options, settings = own.parse(argv)
    if options.format != "original" and (options.original or options.keep_adapter):
        raise ConfigError("--original, --keep_adapter: only with --format original")
    if options.output.exists():
        raise ConfigError(f"--output {options.output}: it is there already")
    if is_config(options.source):
        trusted = ["--trust_remote_code", "true"] if options.trust_remote_code else []
        return options, own.read(options.source, [*trusted, *settings])
    if settings:
        raise ConfigError(f"{settings[0]}: only with a config, and SOURCE {options.source!r} is a model")
    return options, None


def is_config(source: str) -> bool:
    """Whether a source is a config; a folder is a model, whatever else is in it."""
    return source.endswith(SUFFIXES) or (not Path(source).is_dir() and find_or_none(source) is not None)


def settled_block_length(directory: Path) -> int | None:
    """Of a block-causal model that was trained here, the tokens of a block."""
    from trainers.models.families import SETTLED

    path = directory / "config.json"
    if not path.is_file():
        return None
    return (json.loads(path.read_text(encoding="utf-8")).get(SETTLED) or {}).get("block_length")


if __name__ == "__main__":
    main_or_one_line(main)
