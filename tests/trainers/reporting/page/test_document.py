"""A page is one file that asks for nothing else, and no text in it acts as markup."""

import math
import re
from string import Template

import pytest
from pages import content_of
from played import HOSTILE

from trainers.reporting.page.document import SCRIPTS, document, embedded, write_page


def test_a_page_holds_what_it_was_given(tmp_path):
    value = {"text": "Größe 大\U0001f600\x00\x1f", "numbers": [1, 0.5, None, True], HOSTILE: [HOSTILE]}
    assert content_of(write_page(tmp_path / "deep" / "page.html", "t", value)) == value


def test_hostile_text_is_inert_wherever_it_comes(tmp_path):
    page = document(HOSTILE, {"text": HOSTILE, HOSTILE: 1})
    inside = page[page.index('id="content"') :]
    assert page.count("</script") == page.count("<script") == document("", {}).count("<script")
    assert "<img" not in page and "<!--" not in page
    assert "\u2028" not in inside
    assert embedded("\u2028</\ud800&") == r'"\u2028\u003c/\ud800\u0026"'


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_null(value):
    assert embedded({"x": [value]}) == '{"x":[null]}'


def test_nothing_is_fetched():
    page = document("t", {})
    assert "default-src 'none'" in page
    assert not re.findall(r"\b(?:src|href)=[\"']|url\(|@import|\bfetch\(|XMLHttpRequest|\bimport\(", page)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_texts_reach_the_page_as_text_alone():
    script = document("t", {})
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)
    assert len(set(SCRIPTS)) == len(SCRIPTS)
    assert Template("$a").substitute(a="$b") == "$b"  # what is put in is not looked through again
