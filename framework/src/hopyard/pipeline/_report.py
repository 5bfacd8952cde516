"""What passes did, for people."""

from __future__ import annotations

from collections.abc import Iterable

from hopyard._table import table
from hopyard_hookspecs import PassRecord, PassStep


def report(records: Iterable[PassRecord]) -> str:
    """Return a table of passes: their effect on the graph, their time and that of their checks."""
    rows = [
        (
            described(record.step),
            f"{record.nodes_before} -> {record.nodes_after}",
            "yes" if record.modified else "no",
            f"{record.seconds:.3f}",
            f"{record.verify_seconds:.3f}",
            str(record.step.provider),
        )
        for record in records
    ]
    header = ("PASS", "NODES", "CHANGED", "SECONDS", "VERIFYING", "PROVIDED BY")
    return "\n".join(table(header, rows, right=(3, 4)))


def described(step: PassStep) -> str:
    """Return the name of a pass with the round and the region that it runs in, if there is one."""
    round_text = f" (round {step.round})" if step.round > 1 else ""
    return f"{step.name}{round_text}{f' in {step.region}' if step.region else ''}"
