"""Compiles partitions of a program to native code with AOTInductor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._backend import AotInductor as AotInductor

__all__ = ["AotInductor"]


def __getattr__(name: str) -> object:
    # Listings import the plugin and do not pay for torch.
    if name != "AotInductor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._backend import AotInductor

    return AotInductor
