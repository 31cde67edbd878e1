"""What the API pages make of a docstring: an entry an argument, keywords apart, redefined methods as a list."""

import pytest

pytest.importorskip("griffe", reason="with the extra `docs`")

from hooks import hook

rewrite = hook("docstrings").rewrite

DOCSTRING = """What it does.

_one (Owner): is redefined
_two (Owner): so is this

Args:
    low, high: ends of the range, in
        nats: both
    size (`int`, *optional*): of it
    more: keywords

Returns:
    low, high: as they are
"""


def test_arguments_that_share_a_line_get_one_each():
    assert "    low: ends of the range, in\n        nats: both\n    high: ends of the range, in\n" in rewrite(
        DOCSTRING
    )


def test_other_sections_stay():
    assert rewrite(DOCSTRING).endswith("Returns:\n    low, high: as they are\n")


def test_keywords_that_are_no_argument_get_their_section():
    told = rewrite(DOCSTRING, {"low", "high", "more"})
    args, keywords = told.partition("Args:\n")[2].partition("\nKeyword Args:\n")[::2]
    assert "size" not in args and "more: keywords" in args
    assert keywords.startswith("    size (`int`, *optional*): of it\n")


def test_redefined_methods_are_a_list():
    assert "- `_one` (`Owner`): is redefined\n- `_two` (`Owner`): so is this\n" in rewrite(DOCSTRING)
