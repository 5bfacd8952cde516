"""Sessions for tests."""

from __future__ import annotations

from ..session import Session


def plugin_session(*plugins: object) -> Session:
    """Return a session with these plugins alone, whatever is installed where the test runs.

    Args:
        *plugins: Modules or objects with hook implementations.

    Raises:
        PluginError: One of them is broken, or they are in conflict.
    """
    return Session(plugins=plugins, discover=False)
