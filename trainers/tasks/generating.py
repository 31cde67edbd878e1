"""Drawing the items of one split from a seeded generator."""

import random
from collections.abc import Callable
from typing import TypeVar

MAX_FRUITLESS_DRAWS = 5000  # consecutive draws without a new item after which a held-out split counts as exhausted

Item = TypeVar("Item")


def draw_split(
    draw: Callable[[random.Random], Item | None], split: str, size: int, *, seed: int, described: str
) -> list[Item]:
    """Draw `size` items; one may repeat in train only.

    Args:
        draw: one item, or None for one of another split. Items are hashable.
        split: train, validation or test. Each has a stream of its own: the size of one does not change another.
        size: how many.
        seed: of the generator.
        described: what is drawn, for errors.

    Raises:
        ValueError: the split has fewer distinct items than a held-out `size`.
    """
    rng = random.Random(f"{seed}-{split}")
    items: list[Item] = []
    seen: set[Item] = set()
    fruitless = 0
    while len(items) < size:
        item = draw(rng)
        fruitless += 1
        if item is not None and (split == "train" or item not in seen):
            seen.add(item)
            items.append(item)
            fruitless = 0
        elif fruitless == MAX_FRUITLESS_DRAWS:
            raise ValueError(
                f"task.{split}_size = {size}: only about {len(items)} distinct {described} exist; ask for fewer"
            )
    return items
