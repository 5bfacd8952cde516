"""Counts floating-point operations and bytes of what is captured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._mode import FlopCount as FlopCount

__all__ = ["FlopCount"]


def __getattr__(name: str) -> object:
    # Listings import the plugin and do not pay for torch.
    if name != "FlopCount":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._mode import FlopCount

    return FlopCount
