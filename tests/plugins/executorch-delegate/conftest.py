"""A session with this plugin and no other, and what delegates a function in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import hopyard_executorch_delegate._plugin as delegate_plugin
from hopyard import Program, Session


@pytest.fixture
def session() -> Session:
    return Session(discover=False, plugins=[delegate_plugin])


@pytest.fixture
def delegated(session: Session) -> Callable[..., Program]:
    def delegate(target: Any, *args: Any, pipeline: str = "delegate") -> Program:
        return session.run(pipeline, session.capture(target, args)).program

    return delegate
