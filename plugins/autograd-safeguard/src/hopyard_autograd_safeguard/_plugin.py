"""What the plugin registers. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Safeguard, hookimpl

from ._hazards import AUTOCAST_LOST, GRAD_MODE_CHANGED, GRAD_MODE_LOST, INFERENCE_MODE_LOST


@hookimpl
def hopyard_register_safeguards() -> Iterator[Safeguard]:
    """Register the safeguard."""
    yield Safeguard(
        "autograd-state",
        (GRAD_MODE_LOST, GRAD_MODE_CHANGED, INFERENCE_MODE_LOST, AUTOCAST_LOST),
        watch="hopyard_autograd_safeguard._watch:watch",
        summary="Refuse what changes gradients or autocast without a trace in the graph.",
    )
