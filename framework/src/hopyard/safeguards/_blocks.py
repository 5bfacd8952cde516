"""Where in the user's source a block began that torch does not tell of."""

from __future__ import annotations

import ast
import linecache
import sys
from functools import lru_cache
from pathlib import Path
from types import FrameType

import torch

from hopyard_hookspecs import SourceLocation

from ..tracing.provenance._locations import calling_location, is_users

_DECORATED = str(Path(torch.__file__).parent / "utils" / "_contextlib.py")


def location_of_block(name: str) -> SourceLocation | None:
    """Return the line of the innermost `with ... name ...` block that runs, or of the call of the
    function that is decorated so; else that of the innermost line of the user's.
    """
    frame: FrameType | None = sys._getframe(1)
    innermost = calling_location(frame)
    while frame is not None:
        if is_users(frame.f_code):
            line = _enclosing_block(frame.f_code.co_filename, frame.f_lineno, name)
            if line is not None:
                return SourceLocation(frame.f_code.co_filename, line, frame.f_code.co_qualname)
        elif frame.f_code.co_filename == _DECORATED:
            return calling_location(frame)
        frame = frame.f_back
    return innermost


def _enclosing_block(file: str, line: int, name: str) -> int | None:
    blocks = [
        (start, end) for start, end, text in _blocks(file) if start <= line <= end and name in text
    ]
    return max(blocks)[0] if blocks else None


@lru_cache(maxsize=16)
def _parsed(file: str, source: str) -> tuple[tuple[int, int, str], ...]:
    # The key holds the text: a file may change, and notebooks reuse names.
    del file
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()
    return tuple(
        (node.lineno, node.end_lineno or node.lineno, " ".join(map(ast.unparse, node.items)))
        for node in ast.walk(tree)
        if isinstance(node, (ast.With, ast.AsyncWith))
    )


def _blocks(file: str) -> tuple[tuple[int, int, str], ...]:
    return _parsed(file, "".join(linecache.getlines(file)))
