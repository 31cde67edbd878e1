"""README.md beside saved weights: what the model is, what it was trained on, how good it is, and how it is loaded."""

from pathlib import Path
from typing import Any

import yaml

from trainers.models.loading import auto_class
from trainers.models.policy import Policy
from trainers.models.smollm2 import SMOLLM2
from trainers.models.tiny import TINY
from trainers.saving.kept_files import brings_code
from trainers.saving.plain_loop import plain_loop
from trainers.saving.provenance import Provenance, installed, portable
from trainers.tasks.verdicts import is_reward, only_rewards

# models that have a name of their own here -> (name on the hub, license)
KNOWN: dict[str, tuple[str | None, str]] = {
    TINY: (None, "apache-2.0"),
    SMOLLM2: ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
}
METHODS = {
    "grpo": "reinforcement learning by GRPO (2402.03300), on the log-probabilities of estimator `{likelihood}`",
    "sft": "supervised fine-tuning on the masked-diffusion bound (MDLM, 2406.07524)",
    "dpo": "preference training by DPO (2305.18290) on differences of likelihood bounds (VRPO, 2505.19223), estimator "
    "`{likelihood}`",
}


def write_card(
    directory: Path, policy: Policy, provenance: Provenance, adapter: bool = False, original: str = ""
) -> None:
    """Write README.md and the record that it was made from.

    Args:
        directory: where the weights are.
        policy: the model that they are of, or are the adapter of.
        provenance: what else is known.
        adapter: whether the weights are those of an adapter alone.
        original: name of the model whose names and files they were given back; empty: they are transformers' own.
    """
    parts = [_front_matter(policy, provenance, adapter), _model(policy, provenance, adapter)]
    loading = _as_original(original, adapter) if original else _loading(policy, provenance, adapter)
    parts += [loading, _data(provenance), _results(provenance), _training(provenance)]
    parts += [_limits(policy, provenance), _written()]
    (directory / "README.md").write_text("\n".join(part for part in parts if part), encoding="utf-8")
    provenance.save(directory)


def _front_matter(policy: Policy, provenance: Provenance, adapter: bool) -> str:
    hub, license = KNOWN.get(provenance.base, (provenance.base if _on_hub(provenance.base) else None, None))
    tags = ["masked-diffusion", "diffusion-language-model", f"{policy.family}-architecture"]
    tags += ["trl", provenance.trainer] if provenance.trainer else []
    known: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
        "base_model": hub,
        "base_model_relation": ("adapter" if adapter else "finetune") if hub and provenance.trainer else None,
        "license": license,
        "datasets": [provenance.task["dataset"]] if provenance.task.get("dataset") else None,
    }
    return f"---\n{yaml.safe_dump({k: v for k, v in known.items() if v is not None}, sort_keys=False)}---\n"


def _on_hub(name: str) -> bool:
    return name.count("/") == 1 and not Path(name).exists()


def _model(policy: Policy, provenance: Provenance, adapter: bool) -> str:
    known, tokenizer = provenance.sampling, policy.tokenizer
    method = METHODS[provenance.trainer].format(**known) if provenance.trainer else "not trained here"
    blocks = (
        "the whole canvas at once" if known["block_length"] is None else f"blocks of {known['block_length']} tokens"
    )
    if policy.block_length is None:
        attention = "bidirectional: every token sees every other"
    else:
        prompt = (
            "counted from the start of the prompt" if policy.prompt_in_blocks else "behind the prompt, which is one"
        )
        attention = f"block-causal, blocks of {policy.block_length} tokens, {prompt}"
    shift = "predicts the token after it" if policy.logit_shift else "predicts the token there"
    rows = {
        "method": method,
        "starts from": f"`{provenance.base}`" if provenance.base else "fresh weights, or not known",
        "mask token": f"`{tokenizer.mask_token}` (id {policy.mask_id}), which is never predicted",
        "logits": f"the logit at a position {shift}",
        "attention": attention,
        "prompts": policy.format.told(tokenizer),
        "weights": f"{policy.model.dtype}".removeprefix("torch."),
        "schedule": f"{known['alpha_schedule']}, visible share from {known['alpha_max']} (t = 0) to "
        f"{known['alpha_min']} (t = {known['max_timesteps']})",
        "sampler": f"{known['sampler']}, {known['max_timesteps']} steps on a canvas of "
        f"{known['max_completion_length']} tokens, {blocks}, selection {known['selection']}, counts by "
        f"{known['counts']}, temperature {known['temperature']}",
    }
    if known["prediction_type"] != "masked":
        rows["network"] = f"{known['prediction_type']}, solver {known['solver']}"
    kind = "LoRA adapter of a masked diffusion language model" if adapter else "Masked diffusion language model"
    intro = (
        "It does not write from left to right: a completion starts as masks, and every step fills in some of them. "
        f"The end of a text, `{tokenizer.eos_token}`, fills the rest of the canvas."
    )
    return f"# {kind}\n\n{intro}\n\n" + _table(("", ""), rows.items())


def _loading(policy: Policy, provenance: Provenance, adapter: bool) -> str:
    title = "## How to load it\n"
    if adapter:
        return (
            f"{title}\nThe scripts take this directory as it is, `--model.name_or_path DIRECTORY`: they find its base "
            "model, tokenizer and settings. For plain transformers it is merged into its base model first:\n\n"
            "```\npython scripts/export.py DIRECTORY --output MERGED\n```\n"
        )
    loop = plain_loop(policy, provenance, auto_class(policy.model.config).__name__)
    if loop is None:
        return f"{title}\n`python scripts/generate.py CONFIG --model.name_or_path DIRECTORY`: its sampler is there.\n"
    own_code = "It brings code of its own, which decides with which versions of transformers it runs. "
    return (
        f"{title}\nTransformers alone is enough. {own_code if brings_code(policy) else ''}"
        "`generate()` is not: it decodes from left to right. This loop is greedy, on the schedule above, and reveals "
        f"the likeliest positions first.\n\n```python\n{loop}```\n"
    )


def _as_original(original: str, adapter: bool) -> str:
    weights = "The modules of this adapter" if adapter else "The weights"
    return (
        f"## How to load it\n\n{weights} have the names of `{original}`, whose code and tokenizer are here too: what "
        "loads that loads this, under the versions of transformers that its code runs with.\n"
    )


def _data(provenance: Provenance) -> str:
    task = provenance.task
    if not task:
        return ""
    rows = [(name, split["size"], f"`{split['sha256']}`") for name, split in task["splits"].items()]
    hashed = "sha256 over prompt, answer and cluster of every problem, in order."
    return (
        f"## Data\n\nTask {task['name']}, from {task['source']}.\n\n"
        f"{_table(('split', 'problems', 'hash'), rows)}\n{hashed}\n"
    )


def _results(provenance: Provenance) -> str:
    found = provenance.held_out
    if not found:
        return ""
    columns = [name for name in ("before", "after") if name in found]
    measures = list(found[columns[-1]])
    rows = [(name, *(_interval(name, found[column].get(name)) for column in columns)) for name in measures]
    if not rows:
        return ""
    what = "reward" if only_rewards(measures) else "accuracy"
    read = "Strict: the answer in the task's own form; lenient: any form that can be read."
    return (
        f"## Held-out {what}\n\nOn the test split, with 95% intervals; sampled at the temperature above, and "
        f"greedy.\n{read if what == 'accuracy' else 'Means of the rewards.'}\n\n{_table(('', *columns), rows)}"
    )


def _interval(name: str, found: dict[str, float] | None) -> str:
    form = ".3f" if is_reward(name) else ".1%"
    return "" if found is None else f"{found['value']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _written() -> str:
    return f"These files were written with {_listed(installed())}.\n"


def _training(provenance: Provenance) -> str:
    text = yaml.safe_dump(portable(provenance.settings), sort_keys=False) if provenance.settings else ""
    settings = f"Settings that are not defaults:\n\n```yaml\n{text}```\n\n" if text else ""
    return f"## Training\n\n{settings}Versions: {_listed(provenance.versions)}.\n" if provenance.trainer else ""


def _limits(policy: Policy, provenance: Provenance) -> str:
    canvas = provenance.sampling["max_completion_length"]
    lines = [
        f"A completion has at most {canvas} tokens here, its end included: the canvas has a fixed length.",
        "Each step evaluates the whole sequence, unless a sampler keeps a cache.",
    ]
    if provenance.task:
        lines.append(
            f"Trained on the prompts of {provenance.task['name']} alone; nothing else was measured, and nothing was "
            "done about safety or bias."
        )
    if policy.logit_shift:
        lines.append("The first token of a sequence cannot be predicted: a prompt has at least one token.")
    if provenance.base and provenance.base not in KNOWN:
        lines.append(f"The license and the limits of `{provenance.base}` hold for this model too.")
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _table(header: tuple[str, ...], rows: Any) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |\n" for line in lines)
