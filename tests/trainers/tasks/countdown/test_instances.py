"""Expressions are read as Python reads them."""

import itertools
import random
import re
from fractions import Fraction

from trainers.tasks.countdown.instances import evaluate


def test_python_agrees_on_precedence_and_association():
    digits = random.Random(1)
    for signs in itertools.product("+-*/", repeat=3):
        text = "".join(f"{digits.randint(1, 9)}{sign}" for sign in signs) + "5"
        exact = re.sub(r"(\d)", r"Fraction(\1)", text)
        value = eval(exact, {"Fraction": Fraction})  # text of this test, not of a model
        assert evaluate(re.findall(r"\d|\D", text)) == value
