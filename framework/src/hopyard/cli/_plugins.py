"""`hopyard plugins list`."""

from __future__ import annotations

import argparse
from typing import Any

from ..plugins import PluginInfo
from ._answer import Answer, table
from ._sessions import open_session

SUMMARY = "List the plugins, Hopyard's own included, and what has become of each."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: there are none."""


def answer(_: argparse.Namespace) -> Answer:
    """List every plugin, broken ones included."""
    infos = open_session().plugins.infos
    data = {"plugins": [as_data(info) for info in infos]}
    rows = [
        (
            info.provider.plugin,
            info.status,
            info.provider.distribution,
            info.provider.version,
            ", ".join(info.hooks) or "-",
        )
        for info in infos
    ]
    return Answer(table(("PLUGIN", "STATUS", "DISTRIBUTION", "VERSION", "HOOKS"), rows), data)


def as_data(info: PluginInfo) -> dict[str, Any]:
    """Return what is known of a plugin as JSON can hold it."""
    return {
        "plugin": info.provider.plugin,
        "status": info.status.value,
        "distribution": info.provider.distribution,
        "version": info.provider.version,
        "hooks": list(info.hooks),
        "requires_hookspecs": info.requirement,
        "error": str(info.error) if info.error else None,
    }
