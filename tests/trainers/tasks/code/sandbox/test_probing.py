"""A platform that does not hold a guarantee is found out and refused."""

import sys
from dataclasses import replace

import pytest

from trainers.tasks.code.sandbox import (
    GUARANTEES,
    Outcome,
    Runner,
    open_sandbox,
    probing,
)


def test_a_platform_without_layers_is_found_out(sandbox):
    """No namespaces, Landlock or filter: every guarantee that they give is seen to be missing."""
    missing = probing.probe("plain", frozenset({"rlimits"}))
    assert set(missing) == {"network", "files_read", "files_write", "disk", "processes", "signals"}


def test_a_platform_without_limits_is_found_out(sandbox, monkeypatch):
    monkeypatch.setattr(probing, "SPINNING", replace(probing.SPINNING, wall_seconds=3.0))
    missing = probing.probe(sandbox.mode, frozenset({"landlock", "seccomp"}))
    assert {"memory", "cpu", "processes", "disk"} <= set(missing)


def test_runs_that_do_not_end_and_floods_that_are_kept_are_found_out(monkeypatch):
    class Leaky(Runner):
        def run(self, run):
            return Outcome("exited", 0, "x" * 10**6, "", 0, 0.0, 0.0, outlived=True)

    monkeypatch.setattr(probing, "Runner", Leaky)
    assert set(probing._sleeping("plain", frozenset())) == {"output", "escape"}
    assert "escape" in probing._processes("plain", frozenset())
    untried = probing._surroundings("plain", frozenset())
    assert {"network", "files_read", "files_write", "signals", "memory", "disk"} <= set(untried)


@pytest.mark.parametrize("name", GUARANTEES)
def test_a_missing_guarantee_is_refused_unless_allowed_by_name(sandbox, monkeypatch, name):
    lacking = probing.Walls(sandbox.mode, sandbox.layers, {name: "seen broken"})
    monkeypatch.setattr(probing, "walls", lambda: lacking)
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
    found = probing.walls.__wrapped__()
    monkeypatch.undo()
    assert set(found.missing) == set(GUARANTEES)
    monkeypatch.setattr(probing, "walls", lambda: found)
    with pytest.raises(ValueError, match=r"does not enforce network .*darwin.*escape"):
        open_sandbox(allow_unenforced=list(GUARANTEES))
