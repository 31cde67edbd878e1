"""pyproject.toml says which versions may be, constraints.txt which are, constraints-lowest.txt where they begin."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from paths import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [Requirement(text) for texts in PROJECT["optional-dependencies"].values() for text in texts]


def pins(name: str) -> dict[str, Version]:
    """Package -> version, of a file of constraints in which nothing but such lines and comments stands."""
    lines = (REPO / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {canonicalize_name(one.name): Version(str(one.specifier).removeprefix("==")) for one in found}
    assert len(versions) == len(found), "a package is named twice"
    return versions


def lower_end(specifier: SpecifierSet) -> Version:
    (least,) = (one.version for one in specifier if one.operator in (">=", "=="))
    return Version(least.removesuffix(".*"))


@pytest.mark.parametrize("requirement", [*NEEDED, *EXTRAS], ids=str)
def test_what_make_installs_may_be_installed(requirement):
    assert pins("constraints.txt")[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("requirement", NEEDED, ids=str)
def test_the_lower_end_is_the_one_that_was_tested(requirement):
    lowest = pins("constraints-lowest.txt")[canonicalize_name(requirement.name)]
    assert lowest in requirement.specifier
    least = lower_end(requirement.specifier)
    # the first release that there is of a minor version: transformers has no 5.10.0
    assert lowest.release[: len(least.release)] == least.release


def test_nothing_else_has_a_lower_end():
    assert pins("constraints-lowest.txt").keys() == {canonicalize_name(one.name) for one in NEEDED}


def test_the_classifiers_are_the_pythons_that_may_be():
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert named == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed]
