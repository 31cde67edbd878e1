"""A word problem to copy, and whether a solution is right by its own annotations."""

from fractions import Fraction

from trainers.tasks import gsm8k
from trainers.tasks.arithmetic import annotations_of
from trainers.tasks.word_problems.problems import WordProblem

SHOP = WordProblem(
    "Olga buys 14 pens for $6 each and 5 pads. The pads cost $8 each. How much does she pay, in $, for all of it?",
    "The pens cost 14 x 6 = $<<14*6=84>>84.\nThe pads cost 5*8=$<<5*8=40>>40.\nShe pays $84 + $40 = $<<84+40=124>>124."
    "\n#### 124",
    "shop",
)


def is_right(solution: str, answer: str) -> bool:
    """Every annotation is true, and the last one gives the answer."""
    annotations = annotations_of(solution)
    return (
        bool(annotations)
        and all(annotation.is_true() for annotation in annotations)
        and Fraction(annotations[-1].result) == Fraction(answer)
        and gsm8k.verify(solution, answer).strict
    )
