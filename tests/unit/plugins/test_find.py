"""Finding plugins without importing them."""

from __future__ import annotations

import sys

import pytest

from hopyard.errors import PluginError
from hopyard.plugins import find
from hopyard_hookspecs import Provider


def test_nothing_is_found_where_nothing_is_installed(site) -> None:
    assert find() == ()


def test_candidates_are_sorted_by_slug_whatever_their_distribution(site) -> None:
    site.install("aaa", plugins={"zebra": "m", "mole": "m"})
    site.install("zzz", plugins={"ant": "m"})
    assert [each.slug for each in find()] == ["ant", "mole", "zebra"]


def test_a_candidate_says_what_the_metadata_say(site) -> None:
    requires = ["torch>=2", "Hopyard_HookSpecs<0.3,>=0.1"]
    site.install("dist-a", "1.2.post1", plugins={"a": "pkg.mod:attr"}, requires=requires)
    (found,) = find()
    assert found.provider == Provider("a", "dist-a", "1.2.post1")
    assert found.entry_point == "pkg.mod:attr"
    assert str(found.requirement) == "<0.3,>=0.1"
    assert found.problem == ""


def test_finding_imports_nothing(site) -> None:
    site.plugin("loud", "raise AssertionError('imported')")
    find()
    assert "site_loud" not in sys.modules


def test_entry_points_of_other_groups_are_no_plugins(site) -> None:
    site.install("dist-a", plugins="[console_scripts]\na = m:main\n")
    assert find() == ()


@pytest.mark.parametrize(
    ("requires", "expected"),
    [
        ([], ""),
        (["hopyard-hookspecs"], ""),
        (["hopyard-hookspecs>=0.1", "hopyard-hookspecs<1"], "<1,>=0.1"),
        (["hopyard-hookspecs>=99; python_version<'3'", "hopyard-hookspecs>=0.1"], ">=0.1"),
        (["hopyard-hookspecs>=99; extra == 'more'"], ""),
        (["hopyard-hookspecs-extras>=99"], ""),
        (["something else entirely ((", "hopyard-hookspecs>=0.1"], ">=0.1"),
    ],
)
def test_the_requirement_is_what_applies_here(site, requires: list[str], expected: str) -> None:
    site.install("dist-a", plugins={"a": "m"}, requires=requires)
    (found,) = find()
    assert (str(found.requirement), found.problem) == (expected, "")


def test_an_unreadable_requirement_is_kept_as_the_candidates_problem(site) -> None:
    site.install("dist-a", plugins={"a": "m"}, requires=["hopyard-hookspecs at least 1"])
    (found,) = find()
    assert "hopyard-hookspecs" in found.problem
    assert found.distribution == "dist-a"


def test_missing_metadata_are_the_candidates_problem(site) -> None:
    site.install("dist-a", plugins={"a": "m"}, metadata=False)
    site.install("dist-b", plugins={"b": "m"})
    half, whole = find()
    assert (half.distribution, half.version) == ("unknown", "unknown")
    assert "incomplete" in half.problem
    assert whole.problem == ""


def test_unreadable_entry_points_are_blamed_on_their_distribution(site) -> None:
    site.install("dist-a", plugins={"a": "m"})
    site.install("dist-scribble", plugins="[hopyard.plugins]\nno equals sign here\n")
    with pytest.raises(PluginError, match="dist-scribble") as raised:
        find()
    assert "dist-a" not in str(raised.value)
    assert raised.value.__cause__ is not None


def test_two_distributions_may_announce_one_slug(site) -> None:
    site.install("dist-b", plugins={"same": "m"})
    site.install("dist-a", plugins={"same": "m"})
    assert [each.distribution for each in find()] == ["dist-a", "dist-b"]


def test_a_distribution_installed_twice_on_the_path_counts_once(
    site, tmp_path, monkeypatch
) -> None:
    site.install("dist-a", "2.0", plugins={"a": "m"})
    shadowed = type(site)(tmp_path / "later")
    shadowed.folder.mkdir()
    shadowed.install("dist-a", "1.0", plugins={"a": "m"})
    monkeypatch.setattr(sys, "path", [*sys.path, str(shadowed.folder)])
    assert [each.version for each in find()] == ["2.0"]
