"""Limits that no run can have are named."""

import pytest

from trainers.tasks.code.sandbox import Limits


@pytest.mark.parametrize(
    "limit", [{"wall_seconds": 0}, {"memory_bytes": 1}, {"processes": "2"}, {"files": float("inf")}]
)
def test_impossible_limits_are_named(limit):
    with pytest.raises(ValueError, match=rf"limits\.{next(iter(limit))}="):
        Limits(**limit)
