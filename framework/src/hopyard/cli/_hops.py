"""`hopyard hops`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ._answer import Answer, table
from ._sessions import open_session

SUMMARY = "List the higher-order operators that plugins define."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: there are none."""


def answer(_: argparse.Namespace) -> Answer:
    """List every operator with who provides it."""
    entries = [entry for _, entry in sorted(open_session().hops.items())]
    data = {
        "hops": [
            {
                "name": entry.value.name,
                "kind": entry.value.kind,
                "summary": entry.value.summary,
                "provider": asdict(entry.provider),
            }
            for entry in entries
        ]
    }
    if not entries:
        return Answer(["No plugin defines a higher-order operator."], data)
    rows = [
        (entry.value.name, entry.value.kind, entry.value.summary or "-", str(entry.provider))
        for entry in entries
    ]
    return Answer(table(("OPERATOR", "KIND", "SUMMARY", "PROVIDED BY"), rows), data)
