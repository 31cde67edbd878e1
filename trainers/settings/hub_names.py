"""Short names of published checkpoints: every command and every class that takes a model's name knows them."""

from pathlib import Path

# short name -> hub id; the checkpoints that configs/recipes has a recipe for, and their next of kin
HUB_IDS = {
    "llada-8b": "GSAI-ML/LLaDA-8B-Instruct",
    "dream-7b": "Dream-org/Dream-v0-Instruct-7B",
    "sdar-1.7b": "JetLM/SDAR-1.7B-Chat",
    "sdar-4b": "JetLM/SDAR-4B-Chat",
    "sdar-8b": "JetLM/SDAR-8B-Chat",
    "llada2-mini": "inclusionAI/LLaDA2.0-mini",
}


def hub_id(name: str) -> str:
    """The hub id that a short name stands for; any other name, and that of a file or directory here, as it is."""
    return HUB_IDS.get(name.lower(), name) if not Path(name).exists() else name
