"""The markers that tie hook specifications to implementations, and the mark of what may still
change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import pluggy

PROJECT: Final = "hopyard"
"""The name under which pluggy files every Hopyard hook."""

ENTRY_POINT_GROUP: Final = "hopyard.plugins"
"""The entry point group in which distributions announce their plugins."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
"""Declares a hook; only this package and Hopyard itself use it."""

hookimpl: Final = pluggy.HookimplMarker(PROJECT)
"""Marks a function or method of a plugin as the implementation of a hook."""

T = TypeVar("T", bound=Callable[..., Any])


def provisional(subject: T) -> T:
    """Mark a hook or value type whose shape may still change in a minor release."""
    subject.__provisional__ = True  # type: ignore[attr-defined]
    return subject


def is_provisional(subject: object) -> bool:
    """Say whether `subject` was marked with :func:`provisional`."""
    return bool(getattr(subject, "__provisional__", False))
