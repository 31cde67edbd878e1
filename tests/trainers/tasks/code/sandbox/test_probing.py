"""A platform that does not hold a guarantee is found out."""

from dataclasses import replace

from trainers.tasks.code.sandbox import Outcome, Runner, probing


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
