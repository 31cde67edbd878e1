"""SFT: `DiffusionSFTTrainer` on TRL's, and what it minimises (the bound, or a flow's losses).

Imports saving, distributed, faults, models and settings.
"""

from trainers.sft.trainer import DiffusionSFTTrainer as DiffusionSFTTrainer
