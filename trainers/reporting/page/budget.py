"""How much of a run goes into its page: every part has so many bytes, and what does not fit is left out."""

from typing import Any

from trainers.reporting.page.document import embedded

LIMIT = 6_000_000  # bytes of a page, at most: the parts below, and what is always there
ROLLOUTS, PLAYED, PROBLEMS, HELD_OUT, CURVES = 1_200_000, 1_400_000, 1_200_000, 800_000, 800_000
TEXT = 4000  # characters of one text
SHOWN_TEXT = 1500  # the same, of one among hundreds


class Budget:
    """So many bytes, from which values are taken in turn.

    Attributes:
        left: bytes.
    """

    def __init__(self, size: int):
        self.left = size

    def takes(self, value: Any) -> bool:
        """Whether there is still room for a value; if so, it is used."""
        size = len(embedded(value)) + 1  # and a comma
        if size > self.left:
            return False
        self.left -= size
        return True


def clipped(text: str, most: int = TEXT) -> str:
    """The beginning of a text that is too long, with a mark that says so."""
    return text if len(text) <= most else text[:most] + " […]"
