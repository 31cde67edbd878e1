"""A platform that does not hold a guarantee is refused, unless the guarantee is allowed to be missing."""

import sys

import pytest

from trainers.tasks.code.sandbox import GUARANTEES, open_sandbox, opening


@pytest.mark.parametrize("name", GUARANTEES)
def test_a_missing_guarantee_is_refused_unless_allowed_by_name(sandbox, monkeypatch, name):
    lacking = opening.Walls(sandbox.mode, sandbox.layers, {name: "seen broken"})
    monkeypatch.setattr(opening, "walls", lambda: lacking)
    with pytest.raises(ValueError, match=rf"does not enforce {name} \(seen broken\).*allow_unenforced: \[{name}\]"):
        open_sandbox()
    others = [other for other in GUARANTEES if other != name]
    with pytest.raises(ValueError, match=f"does not enforce {name}"):
        open_sandbox(allow_unenforced=others)
    with pytest.warns(UserWarning, match=f"not enforced here, as allowed by name: {name}"):
        allowed = open_sandbox(allow_unenforced=[name])
    assert allowed == sandbox


def test_an_unknown_guarantee_is_named():
    with pytest.raises(ValueError, match="allow_unenforced='internet': expected some of network"):
        open_sandbox(allow_unenforced=["internet"])


def test_another_operating_system_is_refused_whatever_is_allowed(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    found = opening.walls.__wrapped__()
    monkeypatch.undo()
    assert set(found.missing) == set(GUARANTEES)
    monkeypatch.setattr(opening, "walls", lambda: found)
    with pytest.raises(ValueError, match=r"does not enforce network .*darwin.*escape"):
        open_sandbox(allow_unenforced=list(GUARANTEES))
