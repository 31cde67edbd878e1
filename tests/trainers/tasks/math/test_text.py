"""Boxes are found however they nest, in one pass."""

import pytest

from trainers.tasks.math import task
from trainers.tasks.math.text import find_boxes


@pytest.mark.parametrize(
    ("text", "contents", "opened", "is_last"),
    [
        (r"\boxed{1}", ("1",), 1, True),
        (r"\boxed{\frac{1}{2}}$.", (r"\frac{1}{2}",), 1, True),
        (r"\boxed{\{1,2\}}", (r"\{1,2\}",), 1, True),
        (r"\boxed{[0,1\}}", (r"[0,1\}",), 1, True),
        (r"a \boxed{1} b", ("1",), 1, False),
        (r"\boxed{a\boxed{b}}", ("b", r"a\boxed{b}"), 2, True),
        (r"\boxed{a\boxed{b}", ("b",), 2, True),
        (r"\boxed{1", (), 1, False),
        (r"{\boxed{1}", ("1",), 1, True),
        (r"\\boxed{1}", (), 0, False),  # a line break before a word
        (r"\boxed 7", ("7",), 1, True),
        (r"\boxed", (), 0, False),
    ],
)
def test_boxes(text, contents, opened, is_last):
    boxes = find_boxes(text)
    assert (boxes.contents, boxes.opened, boxes.is_last) == (contents, opened, is_last)


@pytest.mark.parametrize("unit", ["\\boxed{", "\\boxed{}", "{", "}", "\\", "\\boxed", "\\boxed ", "\\end{a", "$", " "])
def test_long_texts_are_read_in_one_pass(unit):
    text = unit * (200_000 // len(unit))
    assert task.format_reward([text]) == [0.0]
