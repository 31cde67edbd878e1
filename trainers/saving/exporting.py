"""A policy written out for others: as transformers names its weights, or as its original does."""

from pathlib import Path

from peft import PeftModel

from trainers.models.native.originals import original_record, save_original, save_original_adapter
from trainers.models.native.records import Unsupported
from trainers.models.policy import Policy
from trainers.saving.kept_files import keep_originals
from trainers.settings.options import ConfigError


def export_plain(policy: Policy, directory: Path) -> None:
    """Weights, config and tokenizer as they are in memory; files that a checkpoint with code brought, as they came."""
    policy.model.save_pretrained(directory)
    policy.tokenizer.save_pretrained(directory)
    keep_originals(directory, policy)


def export_original(policy: Policy, original: str, directory: Path) -> None:
    """Weights, or the adapter alone where the policy has one, under the original's names, with its files.

    Args:
        policy: of a model that was read natively, or was trained as such (`trainers.models.native`).
        original: directory or hub id of the checkpoint that has them.
        directory: made if it is not there.

    Raises:
        ConfigError: the model has no original, or what is named is not it.
    """
    if not original:
        raise ConfigError("--original: expected a directory or hub id, as the model does not say what it started from")
    try:
        record = original_record(policy)
        if isinstance(policy.model, PeftModel):
            save_original_adapter(policy.model, record, original, directory)
        else:
            save_original(policy.model, record, original, directory)
    except Unsupported as error:
        raise ConfigError(f"--format original: {error}") from error
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"--original {original!r}: expected the original's directory or hub id: {reason}") from error
