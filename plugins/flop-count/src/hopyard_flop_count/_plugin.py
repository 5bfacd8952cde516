"""What the plugin registers. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Mode, hookimpl


@hookimpl
def hopyard_register_modes() -> Iterator[Mode]:
    """Register the mode."""
    yield Mode(
        "flop-count",
        factory="hopyard_flop_count._mode:FlopCount",
        summary="Count floating-point operations and bytes of each node and module.",
        reports=True,
    )
