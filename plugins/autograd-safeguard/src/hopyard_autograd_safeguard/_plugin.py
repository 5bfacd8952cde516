"""What the plugin registers. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Safeguard, hookimpl

from ._hazards import GRAD_MODE_LOST


@hookimpl
def hopyard_register_safeguards() -> Iterator[Safeguard]:
    """Register the safeguard."""
    yield Safeguard(
        "autograd-state",
        (GRAD_MODE_LOST,),
        watch="hopyard_autograd_safeguard._watch:watched_functions",
        summary="Refuse a change of the grad mode that the graph would lose.",
    )
