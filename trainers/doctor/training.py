"""Three steps of SFT, the weights saved and read again, three steps of GRPO: on a tiny canvas, for `--train`."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers.trainer_callback import PrinterCallback

from trainers.doctor.findings import FAULT, NOT_RUN, OK, Finding
from trainers.doctor.patient import ANSWERS, PROMPTS, Patient
from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer
from trainers.models.adapters import lora_config
from trainers.models.loading import load_policy
from trainers.models.policy import Policy
from trainers.models.probes.looking import LENGTH, logits_from, moved, one_block, same, sequence
from trainers.settings.grpo import ImprovedDiffuGRPOConfig
from trainers.settings.sft import DiffusionSFTConfig
from trainers.sft.trainer import DiffusionSFTTrainer


def train(patient: Patient) -> Iterator[Finding]:
    """SFT, save, reload, GRPO from there; the patient's policy has other weights afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        room = Path(directory)
        needed = 2 * sum(weight.numel() * weight.element_size() for weight in patient.policy.model.parameters())
        if needed > shutil.disk_usage(room).free:
            yield Finding("training", NOT_RUN, f"{needed / 1e9:.1f} GB are needed in {room.parent} to save and reload")
            return
        trainer = sft(patient, room)
        yield from _trained("SFT, 3 steps", trainer)
        trainer.save_model(str(room / "saved"))
        reloaded, finding = reload(patient, trainer, room / "saved")
        yield finding
        yield from _trained("GRPO, 3 steps", grpo(replace(patient, policy=reloaded), room))


def sft(patient: Patient, room: Path) -> DiffusionSFTTrainer:
    """A trainer on prompts with short answers."""
    config = patient.config("sft", output_dir=str(room / "sft"))
    assert isinstance(config.training, DiffusionSFTConfig)
    rows = Dataset.from_dict({"prompt": list(PROMPTS), "completion": list(ANSWERS)})
    adapter = lora_config(config.model, patient.policy.model)
    return _quiet(DiffusionSFTTrainer(patient.policy, config.training, rows, rows, peft_config=adapter))


def grpo(patient: Patient, room: Path) -> ImprovedDiffuGRPOTrainer:
    """A trainer with a made-up reward that differs from text to text."""
    config = patient.config("grpo", output_dir=str(room / "grpo"), num_generations=4, beta=0.0)
    assert isinstance(config.training, ImprovedDiffuGRPOConfig)
    rows = Dataset.from_dict({"prompt": list(PROMPTS)})
    adapter = lora_config(config.model, patient.policy.model)
    return _quiet(
        ImprovedDiffuGRPOTrainer(patient.policy, [variety], config.training, rows, rows, peft_config=adapter)
    )


def variety(completions: list[str], **kwargs: Any) -> list[float]:
    """Different characters as a share of all: random texts differ in it."""
    return [len(set(text)) / max(1, len(text)) for text in completions]


def _quiet(trainer: Any) -> Any:
    trainer.remove_callback(PrinterCallback)
    return trainer


def _trained(check: str, trainer: Any) -> Iterator[Finding]:
    """Train, and look at what was logged of each step."""
    trainer.train()
    log = [row for row in trainer.state.log_history if "grad_norm" in row]
    losses, norms = ([row[name] for row in log] for name in ("loss", "grad_norm"))
    fine = len(log) == trainer.args.max_steps and max(norms) > 0 and all(map(math.isfinite, [*losses, *norms]))
    seen = f"loss {numbers(losses)}; gradient norm {numbers(norms)}"
    rewards = [row["reward"] for row in log if "reward" in row]
    if rewards:
        seen += f"; reward {numbers(rewards)}"
    yield Finding(check, OK if fine else FAULT, seen)


def numbers(values: list[float]) -> str:
    """Of the steps, in their order."""
    return " ".join(f"{value:.3g}" for value in values)


def reload(patient: Patient, trainer: DiffusionSFTTrainer, saved: Path) -> tuple[Policy, Finding]:
    """The saved directory by itself, against the weights that were saved."""
    arguments = replace(patient.arguments, model_name_or_path=str(saved), adapter_base=None)
    policy = load_policy(arguments, block_length=patient.policy.block_length)
    model = trainer.accelerator.unwrap_model(trainer.model)
    kept, read = _logits(patient.policy, model), _logits(policy, None)
    alike = same(policy, kept.to(read.device), read)
    seen = f"root mean square gap {moved(kept.to(read.device), read):.1e}, family {policy.family}"
    settled = (policy.family, policy.logit_shift, policy.block_length, policy.mask_id)
    as_it_was = settled == (
        patient.policy.family,
        patient.policy.logit_shift,
        patient.policy.block_length,
        patient.policy.mask_id,
    )
    return policy, Finding("save and reload", OK if alike and as_it_was else FAULT, seen)


def _logits(policy: Policy, model: Any) -> Tensor:
    ids = sequence(policy, LENGTH).to(next(policy.model.parameters()).device)
    denoiser = policy.denoiser(model)
    with denoiser.evaluating(), torch.no_grad():
        return logits_from(denoiser, ids, one_block(policy, ids))
