"""The base of passes that replay a graph node by node through callbacks, and the first passes.

Importing this package does not import torch; its names do when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._base import ExportPass as ExportPass
    from ._constants import FoldConstants as FoldConstants
    from ._conv_bn import FoldConvolutionBatchNorm as FoldConvolutionBatchNorm
    from ._cse import EliminateCommonSubexpressions as EliminateCommonSubexpressions
    from ._dead_code import EliminateDeadCode as EliminateDeadCode
    from ._decompose import Decompose as Decompose
    from ._decompose import Decomposition as Decomposition
    from ._errors import ReplayError as ReplayError
    from ._functionalize import Functionalize as Functionalize
    from ._linear_activation import FuseLinearActivation as FuseLinearActivation
    from ._no_ops import RemoveNoOps as RemoveNoOps
    from ._refresh import refresh_metadata as refresh_metadata
    from ._reuse import recompute_everything as recompute_everything
    from ._tracer import ExportTracer as ExportTracer
    from ._values import NodeMetadata as NodeMetadata
    from ._values import ProxyValue as ProxyValue

_HOMES = {
    "Decompose": "_decompose",
    "Decomposition": "_decompose",
    "EliminateCommonSubexpressions": "_cse",
    "EliminateDeadCode": "_dead_code",
    "ExportPass": "_base",
    "ExportTracer": "_tracer",
    "FoldConstants": "_constants",
    "FoldConvolutionBatchNorm": "_conv_bn",
    "Functionalize": "_functionalize",
    "FuseLinearActivation": "_linear_activation",
    "NodeMetadata": "_values",
    "ProxyValue": "_values",
    "RemoveNoOps": "_no_ops",
    "ReplayError": "_errors",
    "recompute_everything": "_reuse",
    "refresh_metadata": "_refresh",
}

__all__ = [
    "Decompose",
    "Decomposition",
    "EliminateCommonSubexpressions",
    "EliminateDeadCode",
    "ExportPass",
    "ExportTracer",
    "FoldConstants",
    "FoldConvolutionBatchNorm",
    "Functionalize",
    "FuseLinearActivation",
    "NodeMetadata",
    "ProxyValue",
    "RemoveNoOps",
    "ReplayError",
    "recompute_everything",
    "refresh_metadata",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return __all__
