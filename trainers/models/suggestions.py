"""Values that published runs of a family's models have: suggestions, each with its source. Nothing applies them.

The header of a run prints those that its config does not have. A number stands here only if a public run has it; where
none was found there is no entry.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Suggestion:
    """What one published run sets.

    Attributes:
        trainer: grpo or sft, for which it is.
        values: option as `section.key` -> value.
        source: repository, commit and file.
        adapter: whether that run trains a LoRA adapter; None: the values hold either way.
    """

    trainer: str
    values: dict[str, Any]
    source: str
    adapter: bool | None = None


LENGTH, STEPS, BLOCK = "generation.max_completion_length", "generation.steps", "generation.block_length"
RATE, RANK, ALPHA = "training.learning_rate", "model.lora_r", "model.lora_alpha"

_D1 = "dllm-reasoning/d1 @ 837888f, "
_DLLM = "ZHZisZZ/dllm @ ca17675, "
_DLLM_RL = "Gen-Verse/dLLM-RL @ 10b4fd1, configs/"  # TraceRL
_ESPO = "ML-GSAI/ESPO @ b5f2dac, recipes/"
_DARE = "yjyddq/DARE @ 83ae8a3, recipe/"
_DFACTORY = "inclusionAI/dFactory @ 92b6890, configs/"

LLADA = (
    Suggestion("grpo", {LENGTH: 256, STEPS: 128, BLOCK: 32}, _D1 + "diffu-grpo/slurm_scripts/train.yaml"),
    Suggestion("grpo", {RATE: 3e-6, RANK: 128, ALPHA: 64}, _D1 + "diffu-grpo/slurm_scripts/train.yaml", True),
    Suggestion("grpo", {RATE: 1e-6}, _DLLM_RL + "rl_llada.yaml", False),
    Suggestion("sft", {RATE: 1e-5, RANK: 128, ALPHA: 256}, _D1 + "SFT/sft_train.py", True),
    Suggestion("sft", {RATE: 1e-5}, _DLLM_RL + "sft_llada.yaml", False),
)
LLADA2 = (
    Suggestion("grpo", {LENGTH: 2048, STEPS: 1024, BLOCK: 32}, _DARE + "llada2_mini/run_bgpo_llada2_mini.sh"),
    Suggestion("grpo", {RATE: 5e-7}, _DARE + "llada2_mini/run_bgpo_llada2_mini.sh", False),
    Suggestion("sft", {BLOCK: 32}, _DFACTORY + "sft/llada2_mini_bd_sft.yaml"),
    Suggestion("sft", {RATE: 1e-5}, _DFACTORY + "sft/llada2_mini_bd_sft.yaml", False),
)
DREAM = (
    Suggestion("grpo", {LENGTH: 256, STEPS: 256}, _ESPO + "train.yaml"),
    Suggestion("grpo", {RATE: 3e-6, RANK: 128, ALPHA: 64}, _ESPO + "run_demo_dream.sh, train.yaml", True),
    Suggestion("grpo", {RATE: 1e-6}, _DLLM_RL + "rl_dream.yaml", False),
    Suggestion("sft", {RATE: 2e-5}, _DLLM + "examples/dream/sft.py", False),
)
SDAR = (  # 4 steps a block of 4 tokens: one token a step
    Suggestion("grpo", {LENGTH: 2000, STEPS: 2000, BLOCK: 4}, _DLLM_RL + "rl_sdar.yaml"),
    Suggestion("grpo", {RATE: 1e-6}, _DLLM_RL + "rl_sdar.yaml", False),
    Suggestion("sft", {BLOCK: 4}, _DLLM_RL + "sft_sdar.yaml"),
    Suggestion("sft", {RATE: 1e-5}, _DLLM_RL + "sft_sdar.yaml", False),
)
A2D = (
    Suggestion("grpo", {STEPS: 128, BLOCK: 32}, _DLLM + "examples/rl/grpo/a2d/mdlm/train.py"),
    Suggestion("grpo", {RATE: 3e-6, RANK: 128, ALPHA: 64}, _DLLM + "examples/rl/grpo/a2d/mdlm/train.py", True),
    Suggestion("sft", {RATE: 1e-4}, _DLLM + "examples/a2d/mdlm/sft.py", False),
)
