"""SFT: `DiffusionSFTTrainer` on TRL's, and what it minimises (the bound, or a flow's losses).

Imports saving, distributed, models and settings.
"""
