"""What the plugin registers. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Backend, hookimpl


@hookimpl
def hopyard_register_backends() -> Iterator[Backend]:
    """Register the backend."""
    yield Backend(
        "tape-machine",
        implementation="hopyard_tape_machine.machine:TapeMachine",
        summary="Execute tapes of elementwise operations.",
        concurrency="threads",
        options=("speed",),
    )
