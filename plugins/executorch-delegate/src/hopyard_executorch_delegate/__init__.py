"""Calls from a captured graph into a lowered partition, ExecuTorch's delegates included.

Importing this package leaves torch unloaded; names that need it are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._hop import CALL_DELEGATE as CALL_DELEGATE

if TYPE_CHECKING:
    from ._cache import CacheWarning as CacheWarning
    from ._delegate import Delegate as Delegate
    from ._delegate import delegate as delegate
    from ._errors import DelegationError as DelegationError
    from ._lowered_module import LoweredModule as LoweredModule
    from ._lowered_module import call_delegate as call_delegate
    from ._lowering import Progress as Progress
    from ._reference import ReferenceBackend as ReferenceBackend
    from ._report import DelegationReport as DelegationReport
    from ._report import report as report

_HOMES = {
    "CacheWarning": "_cache",
    "Delegate": "_delegate",
    "DelegationError": "_errors",
    "DelegationReport": "_report",
    "LoweredModule": "_lowered_module",
    "Progress": "_lowering",
    "ReferenceBackend": "_reference",
    "call_delegate": "_lowered_module",
    "delegate": "_delegate",
    "report": "_report",
}

__all__ = sorted(["CALL_DELEGATE", *_HOMES])


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return __all__
