"""Capture PyTorch programs as graphs and transform them with plugins.

Importing this package does not import torch; names that need it are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from . import errors as errors
from ._allowances import allow as allow

if TYPE_CHECKING:
    from .hops import bind as bind
    from .pipeline import Pipeline as Pipeline
    from .pipeline import PipelineResult as PipelineResult
    from .program import Program as Program
    from .session import Session as Session
    from .session import load as load
    from .tracing import make_fx as make_fx

_HOMES = {
    "Pipeline": "pipeline",
    "PipelineResult": "pipeline",
    "Program": "program",
    "Session": "session",
    "bind": "hops",
    "load": "session",
    "make_fx": "tracing",
}

__all__ = [
    "Pipeline",
    "PipelineResult",
    "Program",
    "Session",
    "allow",
    "bind",
    "errors",
    "load",
    "make_fx",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return __all__
