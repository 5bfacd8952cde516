"""The catalogue of what first-party plugins provide says what they do provide."""

from __future__ import annotations

import tomllib

import pytest
from workspace import ROOT

from hopyard import Session
from hopyard.errors import UnknownNameError
from hopyard.plugins import CATALOGUE
from hopyard.policies import check_codes

KINDS = {
    "mode": "modes",
    "higher-order operator": "hops",
    "trace rule": "trace_rules",
    "safeguard": "safeguards",
    "pass": "passes",
    "backend": "backends",
}


def first_party() -> set[str]:
    projects = (ROOT / "plugins").glob("*/pyproject.toml")
    return {tomllib.loads(path.read_text())["project"]["name"] for path in projects}


def test_names_are_those_that_the_plugins_register() -> None:
    session = Session()
    registered = {
        (kind, name): entry.provider.distribution
        for kind, table in KINDS.items()
        for name, entry in getattr(session, table).items()
    }
    registered |= {
        ("plugin", info.provider.plugin): info.provider.distribution
        for info in session.plugins.infos
    }
    registered |= {
        ("hazard", hazard.code): entry.provider.distribution
        for entry in session.safeguards.values()
        for hazard in entry.value.hazards
    }
    ours = first_party()
    assert {entry: dist for entry, dist in registered.items() if dist in ours} == dict(CATALOGUE)


@pytest.mark.parametrize(("kind", "name"), sorted(CATALOGUE))
def test_a_name_whose_plugin_is_missing_comes_with_its_distribution(kind: str, name: str) -> None:
    session = Session(discover=False)

    def ask() -> object:
        if kind == "plugin":
            return session.plugins.info(name)
        if kind == "hazard":
            return check_codes([name], session.hazards)
        return session.lookup(kind, name, getattr(session, KINDS[kind]))

    with pytest.raises(UnknownNameError) as caught:
        ask()
    assert caught.value.distribution == CATALOGUE[kind, name]
    assert f"pip install {CATALOGUE[kind, name]}" in str(caught.value)


def test_a_name_whose_plugin_is_disabled_is_not_to_be_installed_again() -> None:
    session = Session(deny=["export-pass"])
    with pytest.raises(UnknownNameError) as caught:
        session.pipeline("dce")
    assert (caught.value.distribution, caught.value.status) == ("hopyard-export-pass", "disabled")
    assert "pip install" not in str(caught.value)
