"""Lists that let plugins in and keep them out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopyard.errors import IncompatibleError, PluginLoadError, UnknownNameError, UsageError
from hopyard.plugins import PluginStatus
from hopyard.plugins._classify import classify, select

KNOWN = ("ant", "bee", "cow")

lists = st.lists(st.sampled_from(KNOWN))


def admitted(allow=None, deny=(), **environment: str) -> set[str]:
    selection = select(allow, deny, environment, KNOWN)
    return {slug for slug in KNOWN if selection.admits(slug)}


def test_everything_is_admitted_by_default() -> None:
    assert admitted() == set(KNOWN)


def test_an_empty_allow_list_admits_nothing() -> None:
    assert admitted(allow=[]) == set()


def test_an_empty_variable_counts_as_unset() -> None:
    assert admitted(HOPYARD_PLUGINS_ALLOW="", HOPYARD_PLUGINS_DENY="") == set(KNOWN)
    assert admitted(HOPYARD_PLUGINS_ALLOW=" ", HOPYARD_PLUGINS_DENY=" ") == set(KNOWN)


def test_variables_hold_slugs_separated_by_commas() -> None:
    assert admitted(HOPYARD_PLUGINS_ALLOW=" ant , bee,") == {"ant", "bee"}
    assert admitted(HOPYARD_PLUGINS_DENY="ant,cow") == {"bee"}


def test_both_allow_lists_must_admit_and_either_deny_list_refuses() -> None:
    assert admitted(allow=["ant", "bee"], HOPYARD_PLUGINS_ALLOW="bee,cow") == {"bee"}
    assert admitted(deny=["ant"], HOPYARD_PLUGINS_DENY="bee") == {"cow"}


def test_lists_may_be_iterators() -> None:
    assert admitted(allow=iter(["ant"]), deny=iter(["bee"])) == {"ant"}


@given(allow=st.none() | lists, deny=lists, more_allow=lists, more_deny=lists)
def test_deny_always_wins_and_nothing_unlisted_gets_in(allow, deny, more_allow, more_deny) -> None:
    found = admitted(
        allow,
        deny,
        HOPYARD_PLUGINS_ALLOW=",".join(more_allow),
        HOPYARD_PLUGINS_DENY=",".join(more_deny),
    )
    expected = set(KNOWN if allow is None else allow)
    expected &= set(more_allow or KNOWN)
    assert found == expected - set(deny) - set(more_deny)


@pytest.mark.parametrize(
    ("stage", "arguments"),
    [
        ("allow", {"allow": ["bew"]}),
        ("deny", {"deny": ["bew"]}),
        ("HOPYARD_PLUGINS_ALLOW", {"HOPYARD_PLUGINS_ALLOW": "ant,bew"}),
        ("HOPYARD_PLUGINS_DENY", {"HOPYARD_PLUGINS_DENY": "bew"}),
    ],
)
def test_an_unknown_slug_is_refused_with_the_list_that_holds_it(stage, arguments) -> None:
    with pytest.raises(UnknownNameError) as raised:
        admitted(**arguments)
    error = raised.value
    assert (error.kind, error.name, error.closest, error.stage) == ("plugin", "bew", "bee", stage)
    assert error.valid == KNOWN


@pytest.mark.parametrize("arguments", [{"allow": "ant"}, {"deny": "ant"}])
def test_a_string_is_no_list(arguments) -> None:
    with pytest.raises(UsageError) as raised:
        admitted(**arguments)
    assert "['ant']" in raised.value.hint
    assert not isinstance(raised.value, UnknownNameError)


def test_the_error_decides_the_status() -> None:
    assert classify(None) is PluginStatus.ACTIVE
    assert classify(PluginLoadError("x")) is PluginStatus.FAILED
    assert classify(IncompatibleError("x")) is PluginStatus.INCOMPATIBLE


def test_statuses_are_the_words_that_a_listing_shows() -> None:
    assert [str(each) for each in PluginStatus] == ["active", "disabled", "failed", "incompatible"]
