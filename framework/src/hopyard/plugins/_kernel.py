"""The framework's own plugin: what every capture uses, through the hooks that plugins use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from hopyard_hookspecs import Mode, hookimpl

from ._given import GivenPlugin

KERNEL: Final = "kernel"

KERNEL_MODES: Final = (
    Mode(
        "pre-dispatch-state",
        factory="hopyard.tracing.predispatch._functions:state_recorder",
        summary="Records changes of the grad mode, autocast and transforms above autograd.",
        order=-2,
        default=True,
    ),
    Mode(
        "function-metadata",
        factory="hopyard.tracing.provenance._functions:function_mode",
        summary="Notes which torch function a node comes from.",
        order=-1,
        default=True,
    ),
)
"""The modes of every capture, in order; those of plugins are entered after them."""


@hookimpl
def hopyard_register_modes() -> Iterator[Mode]:
    """Register the modes of every capture."""
    yield from KERNEL_MODES


def kernel() -> GivenPlugin:
    """Return the plugin for a session."""
    return GivenPlugin(sys.modules[__name__], KERNEL, "hopyard")
