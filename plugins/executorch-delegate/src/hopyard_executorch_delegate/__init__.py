"""Calls from a captured graph into a lowered partition, ExecuTorch's delegates included.

Importing this package leaves torch unloaded; names that need it are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ._hop import CALL_DELEGATE as CALL_DELEGATE

if TYPE_CHECKING:
    from ._cache import CacheWarning as CacheWarning
    from ._convert import convert_to_executorch as convert_to_executorch
    from ._convert import from_executorch as from_executorch
    from ._delegate import Delegate as Delegate
    from ._delegate import Undelegate as Undelegate
    from ._delegate import delegate as delegate
    from ._errors import DelegationError as DelegationError
    from ._lowered_module import LoweredModule as LoweredModule
    from ._lowered_module import call_delegate as call_delegate
    from ._lowering import Progress as Progress
    from ._pte import PteListing as PteListing
    from ._pte import PteProgram as PteProgram
    from ._pte import inspect_pte as inspect_pte
    from ._pte import run_pte as run_pte
    from ._pte import to_executorch as to_executorch
    from ._reference import ReferenceBackend as ReferenceBackend
    from ._report import DelegationReport as DelegationReport
    from ._report import report as report
    from ._xnnpack import XnnpackBackend as XnnpackBackend

_HOMES = {
    "CacheWarning": "_cache",
    "Delegate": "_delegate",
    "DelegationError": "_errors",
    "DelegationReport": "_report",
    "LoweredModule": "_lowered_module",
    "Progress": "_lowering",
    "PteListing": "_pte",
    "PteProgram": "_pte",
    "ReferenceBackend": "_reference",
    "Undelegate": "_delegate",
    "XnnpackBackend": "_xnnpack",
    "call_delegate": "_lowered_module",
    "convert_to_executorch": "_convert",
    "delegate": "_delegate",
    "from_executorch": "_convert",
    "inspect_pte": "_pte",
    "report": "_report",
    "run_pte": "_pte",
    "to_executorch": "_pte",
}

__all__ = sorted(["CALL_DELEGATE", *_HOMES])


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return __all__
