"""VRPO: `DiffusionDPOTrainer`, DPO on likelihood bounds on TRL's trainer, and the pairs that it learns from.

Imports evaluating, saving, distributed, faults, models and settings.
"""

from trainers.dpo.trainer import DiffusionDPOTrainer as DiffusionDPOTrainer
