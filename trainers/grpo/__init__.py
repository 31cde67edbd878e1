"""GRPO: `ImprovedDiffuGRPOTrainer` on TRL's, and what only it needs.

Imports rewarding, saving, distributed, models and settings.
"""
