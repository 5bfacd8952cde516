"""Sessions with passes of the tests' own."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from hopyard.plugins import GivenPlugin
from hopyard.session import Session
from hopyard_hookspecs import Pass, PassKind, hookimpl


class MakeSession(Protocol):
    def __call__(self, *observers: object, **passes: Any) -> Session: ...


class PassesPlugin:
    """Registers passes; a tuple gives the kind too."""

    def __init__(self, passes: dict[str, Any]) -> None:
        self._passes = passes

    @hookimpl
    def hopyard_register_passes(self) -> list[Pass]:
        return [self._pass(name, given) for name, given in self._passes.items()]

    def _pass(self, name: str, given: Any) -> Pass:
        implementation, kind = given if isinstance(given, tuple) else (given, "graph")
        return Pass(name.replace("_", "-"), implementation, kind=_kind(kind))


def _kind(kind: str) -> PassKind:
    return "program" if kind == "program" else "graph"


@pytest.fixture
def make_session() -> MakeSession:
    """Return a function that makes a session of passes and observers, attributed to acme 1.2."""

    def make(*observers: object, **passes: Any) -> Session:
        plugin = GivenPlugin(PassesPlugin(passes), "acme", "acme-passes", "1.2")
        return Session(plugins=[plugin, *observers], discover=False)

    return make
