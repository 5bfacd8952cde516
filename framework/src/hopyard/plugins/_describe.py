"""How the failures of plugins are put into words."""

from __future__ import annotations

from traceback import TracebackException
from typing import Final

from hopyard_hookspecs import Provider

ISOLATED: Final = (Exception, SystemExit)
"""What may escape from a plugin without taking the process down.

A plugin that exits is a broken plugin; a user who interrupts means the process.
"""


def describe(cause: BaseException) -> str:
    """Return an exception's class and text, also if its `__str__` raises."""
    text = str(TracebackException(type(cause), cause, None))
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def advice(provider: Provider) -> str:
    """Return what a user can do about a broken plugin."""
    return f"repair it, or disable it with HOPYARD_PLUGINS_DENY={provider.plugin}"
