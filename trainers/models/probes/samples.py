"""Texts that most models know something of, cut into a part that is given and one whose tokens are hidden in part."""

from dataclasses import dataclass

EVERY = 5  # of plain text, one token in so many is hidden; of the answers, every second one


@dataclass(frozen=True)
class Sample:
    """Texts in which every ``every``-th token behind the part that is ``given`` is hidden."""

    texts: tuple[tuple[str, str], ...]  # (given, completed)
    every: int


# What most models know something of: plain English; for one trained on nothing but it, the embedded task.
SAMPLES = (
    Sample(
        (
            (
                "The quick brown fox",
                " jumps over the lazy dog. One, two, three, four, five, six, seven, eight, nine, ten. There are seven "
                "days in a week and twelve months in a year. If you have two apples and you buy three more apples, "
                "then you have five apples. The capital of France is Paris, and the capital of Germany is Berlin. "
                "She opened the door, looked out of the window and said that it was going to rain today.",
            ),
        ),
        EVERY,
    ),
    Sample(
        (
            (
                "Tom has 5 apples and buys 4 more at the shop. How many apples does Tom have now?\nAnswer:",
                "<<5+4=9>>\n#### 9",
            ),
            (
                "Ann has 8 books and gives 3 of them to Ben. How many books does Ann have left?\nAnswer:",
                "<<8-3=5>>\n#### 5",
            ),
            (
                "Sam has 3 boxes with 4 pens in each box. How many pens does Sam have in total?\nAnswer:",
                "<<3*4=12>>\n#### 12",
            ),
        ),
        2,
    ),
)
