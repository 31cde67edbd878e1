"""GRPO: `ImprovedDiffuGRPOTrainer` on TRL's, and what it holds (rollouts, states, scores, weights, metrics).

Imports rewarding, saving, distributed, faults, models and settings; of its own modules, trainer.py is the topmost.
"""

from trainers.grpo.trainer import ImprovedDiffuGRPOTrainer as ImprovedDiffuGRPOTrainer
