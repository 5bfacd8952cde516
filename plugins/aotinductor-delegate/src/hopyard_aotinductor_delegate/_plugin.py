"""What the plugin registers. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Backend, hookimpl


@hookimpl
def hopyard_register_backends() -> Iterator[Backend]:
    """Register the backend."""
    yield Backend(
        "aotinductor",
        implementation="hopyard_aotinductor_delegate._backend:AotInductor",
        summary="Compile partitions to native code for this machine.",
        concurrency="processes",
        native=True,
    )
