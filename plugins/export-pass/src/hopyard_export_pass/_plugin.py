"""What `hopyard-export-pass` registers with Hopyard. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Pass, hookimpl


@hookimpl
def hopyard_register_passes() -> Iterator[Pass]:
    """Register the passes, by references that are imported when a pipeline uses them."""
    yield Pass(
        "decompose",
        "hopyard_export_pass._decompose:Decompose",
        summary="Replace operators by what they decompose into.",
    )
    yield Pass(
        "dce",
        "hopyard_export_pass._dead_code:EliminateDeadCode",
        summary="Remove what nothing uses and what has no effect.",
    )
    yield Pass(
        "remove-no-ops",
        "hopyard_export_pass._no_ops:RemoveNoOps",
        summary="Remove operators that return their operand as it is.",
    )
