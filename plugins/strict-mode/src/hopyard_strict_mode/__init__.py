"""Strict regions: functions that must be one graph, kept as one node in captures.

Importing this package does not import torch; its functions do when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._strict_mode import region as region
    from ._strict_mode import strict_mode as strict_mode

__all__ = ["region", "strict_mode"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _strict_mode

    return getattr(_strict_mode, name)
