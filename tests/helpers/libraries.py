"""Marks for tests that need a library that is not always there."""

import importlib.util

import pytest

needs_math_verify = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="needs the package math-verify (the extra math)"
)
