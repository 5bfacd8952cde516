"""Dynamo: the bytecode analyser behind `torch.compile` and strict export.

Importing this module imports Dynamo, which takes seconds; import it where it is used.
"""

from __future__ import annotations

import threading as _threading
from collections.abc import Iterator as _Iterator
from contextlib import contextmanager as _contextmanager
from typing import Any as _Any

from torch._dynamo import config as settings
from torch._dynamo import convert_frame as _convert_frame
from torch._dynamo import optimize as _optimize
from torch._dynamo.backends.common import aot_autograd as lowered_backend
from torch._dynamo.exc import UncapturedHigherOrderOpError as UncapturedCall
from torch._dynamo.exc import Unsupported as GraphBreak
from torch._dynamo.exc import UserError as UserError
from torch._functorch._aot_autograd.utils import make_boxed_func as boxed


class _Thread(_threading.local):
    shape_env: _Any = None


_thread = _Thread()
_reasons = _convert_frame.get_and_maybe_log_recompilation_reasons  # type: ignore[attr-defined]


def _reasons_without_guards(*args: _Any, **kwargs: _Any) -> list[str]:
    if _thread.shape_env is None:
        return _reasons(*args, **kwargs)
    with _thread.shape_env.suppress_guards():
        return _reasons(*args, **kwargs)


# Installed once: it does nothing on threads that ask for nothing.
_convert_frame.get_and_maybe_log_recompilation_reasons = (  # type: ignore[attr-defined]
    _reasons_without_guards
)


@_contextmanager
def reports_without_guards(shape_env: _Any) -> _Iterator[None]:
    """Let Dynamo tell why it compiles a function again without deciding by symbolic sizes.

    It compares them with those of earlier compilations for its report, which would fix them.
    """
    before, _thread.shape_env = _thread.shape_env, shape_env
    try:
        yield
    finally:
        _thread.shape_env = before


def compiled_whole(function: _Any, backend: _Any) -> _Any:
    """Return a function compiled as one graph, unlike `torch.compile` within an export as well."""
    return _optimize(backend=backend, nopython=True)(function)


__all__ = [
    "GraphBreak",
    "UncapturedCall",
    "UserError",
    "boxed",
    "compiled_whole",
    "lowered_backend",
    "reports_without_guards",
    "settings",
]
