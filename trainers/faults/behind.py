"""What a mixin in front of a transformers trainer takes from the class behind it.

That class is known where the two are put together, so to Python a mixin's base is `object`. A type checker reads the
mixin as a part of a `transformers.Trainer`, and knows by that what `self` has and what ``super()`` calls.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Trainer as TrainerBehind
else:
    TrainerBehind = object

__all__ = ["TrainerBehind"]
