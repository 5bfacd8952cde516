"""Strict execution: a function that must be one graph, checked from its bytecode."""

from __future__ import annotations

import dis
import inspect
import sys
import traceback
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch

from hopyard_hookspecs import SourceLocation

from .errors import UnsupportedError
from .tracing import current_location


def call_strictly(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function(*args)`, provided that a strict capture sees everything it does.

    A print, a branch on a tensor's value, a write to a global or a call into code that cannot be
    analysed would be missing from a graph or frozen in it; here it is an error before the function
    has run. Gradients are recorded as usual. Functions with the same code are analysed once for
    each kind of input.

    Raises:
        UnsupportedError: The function is not one graph; the location is the offending line.
    """
    from ._torch.compiler import GraphBreak

    _refuse_global_writes(function)
    # A region is used with as many kinds of inputs as the program likes; that is no mistake.
    unlimited = sys.maxsize
    strict = torch.compile(  # type: ignore[call-overload]
        function, backend="eager", fullgraph=True, recompile_limit=unlimited
    )
    try:
        return strict(*args)
    except GraphBreak as error:
        raise UnsupportedError(
            f"a strict capture cannot see all of it: {_reason(str(error))}",
            hint="move it out of the strict function, or write it with tensor operators",
            stage="strict",
            location=_innermost(getattr(error, "real_stack", None)) or current_location(),
        ) from error


def _refuse_global_writes(function: Callable[..., Any]) -> None:
    """Refuse the function's own writes to globals, which Dynamo would replay after the graph."""
    pending = [getattr(inspect.unwrap(getattr(function, "forward", function)), "__code__", None)]
    while pending:
        code = pending.pop()
        if code is None:
            continue
        pending.extend(const for const in code.co_consts if isinstance(const, CodeType))
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                line = instruction.positions.lineno if instruction.positions else None
                raise UnsupportedError(
                    f"a strict capture cannot see all of it: it writes to {instruction.argval}",
                    hint="return the value instead of keeping it in a global",
                    stage="strict",
                    location=SourceLocation(
                        code.co_filename, line or code.co_firstlineno, code.co_qualname
                    ),
                )


def _reason(text: str) -> str:
    """Return Dynamo's summary and explanation without its hints, which concern torch.compile."""
    words = " ".join(text.split("Hint:")[0].split("Developer debug context:")[0].split())
    return words.replace(" Explanation:", ":").rstrip(".")


def _innermost(stack: traceback.StackSummary | None) -> SourceLocation | None:
    if not stack:
        return None
    frame = stack[-1]
    return SourceLocation(frame.filename, frame.lineno or 0, frame.name)
