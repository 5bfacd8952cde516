"""Making a session: which plugins it has, what they register, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import hopyard
from hopyard.errors import DuplicateNameError, PluginError, PluginLoadError, UnknownNameError
from hopyard.plugins import KERNEL, PluginInfo, PluginStatus
from hopyard_hookspecs import (
    Backend,
    CaptureRequest,
    Hazard,
    Hop,
    Mode,
    Pass,
    Safeguard,
    TraceRule,
    Watch,
    hookimpl,
)


class Everything:
    """Registers one of each; the name and what is wrong with it are given."""

    def __init__(self, name: str = "mine", wrong: str = "") -> None:
        self.name = name
        self.wrong = wrong

    def yields(self, kind: str, *values: Any) -> Iterator[Any]:
        yield from values
        if self.wrong == kind:
            raise ValueError(f"no {kind}")

    @hookimpl
    def hopyard_register_modes(self) -> Iterator[Mode]:
        return self.yields("modes", Mode(self.name, factory="nowhere:nothing"))

    @hookimpl
    def hopyard_register_hops(self) -> Iterator[Hop]:
        return self.yields("hops", Hop(f"test_making__{self.name}"))

    @hookimpl
    def hopyard_register_trace_rules(self) -> Iterator[TraceRule]:
        return self.yields("trace rules", TraceRule(self.name, rule="nowhere:nothing"))

    @hookimpl
    def hopyard_register_safeguards(self) -> Iterator[Safeguard]:
        hazard = Hazard("TM001", "nothing", remedy="nothing")
        return self.yields("safeguards", Safeguard(self.name, (hazard,), watch="nowhere:nothing"))

    @hookimpl
    def hopyard_register_passes(self) -> Iterator[Pass]:
        return self.yields("passes", Pass(self.name, "nowhere:nothing"))

    @hookimpl
    def hopyard_register_backends(self) -> Iterator[Backend]:
        return self.yields("backends", Backend(self.name, implementation="nowhere:nothing"))


class Other(Everything):
    """Another plugin: the slug comes from the class."""


TABLES = ("modes", "hops", "trace_rules", "safeguards", "passes", "backends")


def named(session: hopyard.Session) -> dict[str, list[str]]:
    """Return what the given plugins registered, by kind: the framework's own plugin is left out."""
    return {
        table: sorted(
            name
            for name, entry in getattr(session, table).items()
            if entry.provider.plugin != KERNEL
        )
        for table in TABLES
    }


def given(session: hopyard.Session) -> list[PluginInfo]:
    """Return what is known of all plugins but the framework's own."""
    return [info for info in session.plugins.infos if info.provider.plugin != KERNEL]


def names_of(*names: str) -> dict[str, list[str]]:
    return {
        table: [f"test_making__{name}" if table == "hops" else name for name in names]
        for table in TABLES
    }


def test_a_plugin_given_by_the_program_needs_no_installation() -> None:
    session = hopyard.Session(discover=False, plugins=[Everything()])
    assert named(session) == names_of("mine")
    (info,) = given(session)
    assert session.passes["mine"].provider == info.provider
    assert info.status is PluginStatus.ACTIVE


@pytest.mark.parametrize(
    "kind", ["modes", "hops", "trace rules", "safeguards", "passes", "backends"]
)
def test_a_plugin_that_fails_late_leaves_nothing(kind: str) -> None:
    with pytest.raises(PluginLoadError) as raised:
        hopyard.Session(discover=False, plugins=[Everything(wrong=kind)])
    assert isinstance(raised.value.__cause__, ValueError)
    session = hopyard.Session(
        discover=False, plugins=[Other("other"), Everything(wrong=kind)], strict=False
    )
    assert named(session) == names_of("other")
    statuses = [info.status for info in given(session)]
    assert sorted(statuses) == sorted([PluginStatus.ACTIVE, PluginStatus.FAILED])
    manifest = session.manifest()
    assert len(manifest.plugins) == 1


def test_a_name_that_two_plugins_claim_belongs_to_neither() -> None:
    with pytest.raises(DuplicateNameError) as raised:
        hopyard.Session(discover=False, plugins=[Everything(), Other()])
    assert len(raised.value.claimants) == 2
    session = hopyard.Session(discover=False, plugins=[Everything(), Other()], strict=False)
    assert named(session) == names_of()
    with pytest.raises(DuplicateNameError) as again:
        session.pipeline("mine")
    assert again.value.claimants == raised.value.claimants
    with pytest.raises(DuplicateNameError):
        session.hop("test_making__mine")
    with pytest.raises(DuplicateNameError):
        session.backend("mine")


def test_installed_plugins_can_be_chosen() -> None:
    slugs = {"strict-mode", "autograd-safeguard"}
    every = {info.provider.plugin for info in hopyard.Session().plugins.infos}
    assert slugs <= every
    only = hopyard.Session(allow=slugs)
    active = {i.provider.plugin for i in only.plugins.infos if i.status is PluginStatus.ACTIVE}
    assert active == {KERNEL, *slugs}
    without = hopyard.Session(deny=["strict-mode"])
    assert "strict_mode__region" not in without.hops
    assert "autograd-state" in without.safeguards
    with pytest.raises(UnknownNameError) as raised:
        without.hop("strict_mode__region")
    assert raised.value.distribution == "hopyard-strict-mode"
    assert given(hopyard.Session(discover=False)) == []


@pytest.mark.parametrize(
    ("ask", "closest"),
    [
        (lambda session: session.pipeline("mime"), "mine"),
        (lambda session: session.hop("test_making__mime"), "test_making__mine"),
        (lambda session: session.backend("mime"), "mine"),
        (lambda session: session.capture(len, (), modes=["mime"]), "mine"),
        (lambda session: session.capture(len, (), policy={"TM010": None}), "TM001"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest(ask: Any, closest: str) -> None:
    class Watching(Everything):
        @hookimpl
        def hopyard_register_safeguards(self) -> Iterator[Safeguard]:
            yield Safeguard("mine", (Hazard("TM001", "nothing", remedy="nothing"),), watch=Watch)

        @hookimpl
        def hopyard_register_trace_rules(self) -> Iterator[TraceRule]:
            return iter(())

    session = hopyard.Session(discover=False, plugins=[Watching()])
    with pytest.raises(UnknownNameError) as raised:
        ask(session)
    assert raised.value.closest == closest
    assert closest in str(raised.value)


def test_what_a_plugin_names_is_imported_when_it_is_used() -> None:
    session = hopyard.Session(discover=False, plugins=[Everything()])
    with pytest.raises(PluginError) as raised:
        session.backend("mine")
    assert raised.value.plugin == given(session)[0].provider
    with pytest.raises(PluginError):
        session.capture(len, ("x",), modes=["mine"])


LIGHT = """
import json, sys
import hopyard
session = hopyard.Session({arguments})
names = sorted(session.passes)
from hopyard import Pipeline
print(json.dumps(["torch" in sys.modules, [i.status.name for i in session.plugins.infos]]))
"""


@pytest.mark.parametrize("arguments", ["", "discover=False", "strict=False"])
def test_a_session_does_not_import_torch(arguments: str) -> None:
    code = LIGHT.format(arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    loaded, statuses = json.loads(done.stdout)
    assert not loaded
    assert set(statuses) <= {"ACTIVE"}


def test_a_request_says_what_was_asked() -> None:
    seen: list[CaptureRequest] = []

    class Observing:
        @hookimpl
        def hopyard_before_capture(self, request: CaptureRequest) -> None:
            seen.append(request)

    args, kwargs = ("text",), {"end": "!"}
    session = hopyard.Session(discover=False, plugins=[Observing()])
    session.capture(lambda text, *, end: 3, args, kwargs)
    (request,) = seen
    assert request.args is args
    assert request.kwargs == kwargs
    assert (request.tracing_mode, request.pre_dispatch) == ("fake", False)
