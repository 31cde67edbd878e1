"""What both trainers write beside weights, so that a saved directory can be read by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

from peft import PeftModel
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from trainers.faults.behind import TrainerBehind
from trainers.models.adapters import REFERENCE, complete_adapter
from trainers.models.policy import Policy
from trainers.saving.kept_files import keep_originals
from trainers.saving.model_card import write_card
from trainers.saving.provenance import Provenance


@contextmanager
def adapter_alone(model: nn.Module) -> Iterator[None]:
    """Meanwhile an adapter is saved without the table of tokens, which nobody trains.

    peft would read the base model's config to see whether the table has grown: of a natively read one it is that of
    another class, whose sizes and values are not those in memory.
    """
    if not isinstance(model, PeftModel):
        yield
        return
    vars(model)["save_pretrained"] = partial(model.save_pretrained, save_embedding_layers=False)
    try:
        yield
    finally:
        del vars(model)["save_pretrained"]


class SelfContained(TrainerBehind):
    """Mixin in front of a trainer of TRL: `_save` also writes the model card, keeps the files of a
    checkpoint with code of its own, and makes an adapter's directory whole.

    Attributes:
        provenance: what the card says beside the model; None: what the trainer knows by itself.
    """

    args: Any
    model: nn.Module
    policy: Policy
    provenance: Provenance | None = None
    trainer_name: str  # of `Provenance.trainer`

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        with adapter_alone(model):
            super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        directory = Path(output_dir or self.args.output_dir)
        if isinstance(model, PeftModel):
            if not directory.name.startswith(PREFIX_CHECKPOINT_DIR):  # a resumed run needs the reference, nobody else
                rmtree(directory / REFERENCE, ignore_errors=True)
            complete_adapter(directory, self.policy.model, self.policy.name)
        keep_originals(directory, self.policy, isinstance(model, PeftModel))
        self.describe_saved(directory)

    def describe_saved(self, directory: Path, **known: Any) -> None:
        """Write the model card of a saved directory, with what else is known by now (`Provenance`)."""
        provenance = self.provenance or Provenance.of(self.args, self.policy.name, trainer=self.trainer_name)
        adapter = isinstance(self.accelerator.unwrap_model(self.model), PeftModel)
        write_card(directory, self.policy, replace(provenance, **known), adapter)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: TRL's card goes to the run's directory, ours beside the weights, see `_save`."""
