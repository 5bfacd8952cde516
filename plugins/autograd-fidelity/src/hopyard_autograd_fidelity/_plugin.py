"""What the plugin registers. Importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterator

from hopyard_hookspecs import Safeguard, hookimpl

from ._hazards import BACKWARD_LOST, DETACHMENT_LOST, GRADIENT_NOT_RETAINED, HOOK_LOST


@hookimpl
def hopyard_register_safeguards() -> Iterator[Safeguard]:
    """Register the safeguards."""
    yield Safeguard(
        "gradient-hooks",
        (HOOK_LOST, GRADIENT_NOT_RETAINED),
        watch="hopyard_autograd_fidelity._hooks:watch",
        summary="Refuse hooks on gradients, and retained ones, that the graph would lose.",
    )
    yield Safeguard(
        "custom-backward",
        (BACKWARD_LOST,),
        watch="hopyard_autograd_fidelity._functions:watch",
        summary="Refuse custom autograd functions whose backward the graph would lose.",
    )
    yield Safeguard(
        "detachment",
        (DETACHMENT_LOST,),
        watch="hopyard_autograd_fidelity._detachment:watch",
        summary="Refuse tensors whose part in autograd changes without a trace in the graph.",
    )
