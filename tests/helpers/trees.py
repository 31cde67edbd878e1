"""Every expression over some numbers, by brute force."""

import itertools
import operator
from fractions import Fraction

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def trees(numbers: tuple[int, ...]):
    """Every (fully parenthesised expression, value) that reads the numbers in the given order; None: no value."""
    if len(numbers) == 1:
        yield str(numbers[0]), Fraction(numbers[0])
    for cut in range(1, len(numbers)):
        for (one, left), (other, right) in itertools.product(trees(numbers[:cut]), trees(numbers[cut:])):
            for sign, apply in OPERATIONS.items():
                undefined = left is None or right is None or (sign == "/" and right == 0)
                yield f"({one}{sign}{other})", None if undefined else apply(left, right)
