"""The session of a command: with every plugin that works."""

from __future__ import annotations

from collections.abc import Mapping

from hopyard_hookspecs import Policy

from ..plugins import PluginInfo, PluginStatus
from ..session import Session
from ._console import warn


def open_session(policy: Mapping[str, Policy] | None = None) -> Session:
    """Return a session; what is wrong with plugins is printed as warnings.

    Args:
        policy: What becomes of findings, by hazard code.

    Raises:
        UnknownNameError: The environment's allow or deny list names a plugin that is not installed.
        PluginError: The plugins that are installed cannot be found out.
    """
    session = Session(strict=False, policy=policy)
    told = set[str]()
    for info in faulty(session):
        text = f"{info.error} (plugin left out)" if is_left_out(info) else str(info.error)
        if text not in told:
            warn(text)
        told.add(text)
    return session


def faulty(session: Session) -> tuple[PluginInfo, ...]:
    """Return the plugins that something is wrong with."""
    return tuple(info for info in session.plugins.infos if info.error is not None)


def is_left_out(info: PluginInfo) -> bool:
    """Say whether a plugin takes no part though nobody disabled it."""
    return info.status in (PluginStatus.FAILED, PluginStatus.INCOMPATIBLE)
