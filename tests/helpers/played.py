"""Completions as the report plays them, made up."""

from dataclasses import asdict
from math import log

from trainers.evaluating.playback import Playback

HOSTILE = "</script><script>throw 1</script><img src=x onerror=alert(1)>\u2028\u2029 & \"'`${1} <!-- $title"


def playback(length=8, count=4, text="12", **changes) -> Playback:
    """A canvas whose token i is "w<i>" and was revealed by step i modulo ``count``, with probability 1 / (i + 1)."""
    values = {
        "tokens": [f"w{i}" for i in range(length)],
        "steps": [i % count for i in range(length)],
        "logps": [round(-log(i + 1), 4) for i in range(length)],
        "length": length,
        "finish": "length",
        "text": text,
    }
    return Playback(**values | changes)


def group(step=0, number=0, size=2, **changes) -> dict:
    """A recorded group of completions with two rewards."""
    return {
        "rollout": step,
        "step": step,
        "group": number,
        "prompt": f"prompt of step {step}, group {number}",
        "size": size,
        "rewards": {"correct": [float(i) for i in range(size)], "format": [0.5] * size},
        "advantages": [i - (size - 1) / 2 for i in range(size)],
        "completions": [asdict(playback(text=f"text {i}")) for i in range(size)],
    } | changes
