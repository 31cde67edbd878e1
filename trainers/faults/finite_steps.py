"""No update with a loss or a gradient that is not finite: the run ends before it, with the batches saved for study."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainers.faults.behind import TrainerBehind
from trainers.faults.endings import RunError


def not_finite(values: Iterable[tuple[str, Tensor | None]]) -> list[str]:
    """The names of those that hold a NaN or an infinity, in their order."""
    return [name for name, value in values if value is not None and not bool(_local(value).isfinite().all())]


def _local(value: Tensor) -> Tensor:
    """This rank's shard."""
    return value.to_local() if isinstance(value, DTensor) else value


def _own(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}


def gradient_norm(model: nn.Module) -> Tensor:
    """The largest of the norms of this rank's gradients, 0-dim; not finite where one of their values is not.

    Norms, as those are what clipping computes next: a pass over the gradients in the fastest kernel that there is.
    """
    gradients = [_local(weight.grad) for weight in model.parameters() if weight.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm(gradients, 2, dtype=torch.float32)
    return torch.stack(norms).max()


class FiniteSteps(TrainerBehind):
    """Mixin in front of a transformers trainer: looks at each step's losses and gradients before its update.

    Overridden: `_prepare_inputs` (keeps the step's micro-batches), `training_step` (looks). Under fp16 with a gradient
    scaler an overflow is part of its work, and DeepSpeed keeps gradients and update to itself: there only losses are
    looked at, with DeepSpeed after the update, which no checkpoint is then written of.

    Attributes:
        position_name: the attribute that says which micro-step it is, and that its randomness depends on.
    """

    position_name: str

    def __init__(self, *args: Any, **kwargs: Any):
        self._micro_steps: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def _prepare_inputs(self, inputs: Any) -> Any:
        prepared = super()._prepare_inputs(inputs)
        if self.model.training:
            self._micro_steps.append(
                {"batch": prepared, "position": getattr(self, self.position_name), "random": self._random_state()}
            )
        return prepared

    @staticmethod
    def _random_state() -> dict[str, Tensor]:
        """Torch's own random states: dropout draws from them."""
        state = {"cpu": torch.get_rng_state()}
        return state | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else state

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of one micro-step; the last one of a step checks losses and gradients of all before the update."""
        loss = super().training_step(*args, **kwargs)
        self._micro_steps[-1]["loss"] = loss
        if self.accelerator.sync_gradients:
            self._stop_unless_finite()
            self._micro_steps = []
        return loss

    def _stop_unless_finite(self) -> None:
        """Raise on all ranks if one has a loss or a gradient that is not finite.

        Raises:
            RunError: it names both, and the files.
        """
        losses = torch.stack([micro["loss"].float() for micro in self._micro_steps])
        worst = losses.abs().max()
        if self.accelerator.scaler is None:
            worst = torch.maximum(worst, gradient_norm(self.model).to(worst.device))
        if bool(cast(Tensor, self.accelerator.gather(worst.reshape(1))).isfinite().all()):
            return
        step = self.state.global_step + 1
        mine = self._what_is_not_finite(losses)
        found = [(rank, what) for rank, what in enumerate(gather_object([mine])) if what is not None]
        rank, what = found[0]
        on = f" (rank {rank})" if self.accelerator.num_processes > 1 else ""
        path, weights = self._save_step(step, mine)
        raise RunError(
            f"step {step}{on}: {what}; no update was made with it. Its batch is {path}, the weights it met "
            f"{weights.name}: docs/faults.md says how to look at them. To go on before it: --resume_from_checkpoint "
            "true, with something changed against it (a lower learning_rate, another seed)",
            shared=True,
        )

    def _save_step(self, step: int, what: str | None) -> tuple[Path, Path]:
        """Write this rank's micro-batches, and the weights; returns where."""
        run, several = Path(self.args.output_dir), self.accelerator.num_processes > 1
        path = run / f"nan_batch_step_{step}{f'_rank_{self.accelerator.process_index}' if several else ''}.pt"
        weights = run / f"nan_model_step_{step}"
        # a batch may be a view of a whole rollout, all of which torch.save would write
        micro_steps = [micro | {"batch": _own(micro["batch"])} for micro in self._micro_steps]
        run.mkdir(parents=True, exist_ok=True)
        record = {"step": step, "what": what, "accumulated": self.current_gradient_accumulation_steps}
        torch.save(record | {"micro_steps": micro_steps}, path)
        self.save_model(str(weights))
        return path, weights

    def _what_is_not_finite(self, losses: Tensor) -> str | None:
        """One phrase, or None for a rank whose own numbers are finite."""
        weights = dict(self.model.named_parameters())
        gradients = {name: weight.grad for name, weight in weights.items()}
        bad_losses = (~losses.isfinite()).nonzero().flatten().tolist()
        bad_gradients, bad_weights = not_finite(gradients.items()), not_finite(weights.items())
        parts = []
        if bad_weights:
            parts.append(f"the weight {bad_weights[0]} is not finite already")
        if bad_losses:
            parts.append(f"the loss of micro-step {bad_losses[0] + 1} of {len(losses)} is {losses[bad_losses[0]]}")
        if bad_gradients and self.accelerator.scaler is None:
            count = sum(gradient is not None for gradient in gradients.values())
            parts.append(f"{len(bad_gradients)} of {count} gradients are not finite, first that of {bad_gradients[0]}")
        if not parts and not bool(gradient_norm(self.model).isfinite()):
            parts.append("the norm of its gradient overflows")
        return " and ".join(parts) or None

    def replay_step(self, path: str | Path) -> tuple[list[float], list[str]]:
        """The losses of a saved step again, on this trainer's weights, and the parameters whose gradient, left in
        ``grad``, is not finite.

        Args:
            path: a ``nan_batch_step_N.pt``.

        Returns:
            The losses by micro-step, as they went into the gradient, and the names.
        """
        record = torch.load(path, map_location=self.accelerator.device.type, weights_only=True)
        self.state.global_step = record["step"] - 1
        self.current_gradient_accumulation_steps = record["accumulated"]
        self.model.zero_grad()
        losses = []
        for micro in record["micro_steps"]:
            setattr(self, self.position_name, micro["position"])
            torch.set_rng_state(micro["random"]["cpu"].cpu())
            if "cuda" in micro["random"]:
                torch.cuda.set_rng_state(micro["random"]["cuda"].cpu())
            losses.append(self._replayed_loss(micro["batch"]))
        return losses, not_finite((name, weight.grad) for name, weight in self.model.named_parameters())

    def _replayed_loss(self, batch: dict[str, Any]) -> float:
        """Forward and backward, as `training_step` does them, on a batch that is prepared already."""
        self.model.train()
        with self.compute_loss_context_manager():
            loss = self.compute_loss(self.model, batch)
        if not self.loss_is_scaled_for_ga:
            loss = loss / self.current_gradient_accumulation_steps
        self.accelerator.backward(loss)
        return loss.item()
