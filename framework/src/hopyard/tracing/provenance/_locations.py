"""Where in the user's source something happened."""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import torch
from torch.fx import Node

from hopyard_hookspecs import SourceLocation

_TORCH = str(Path(torch.__file__).parent)
_HOPYARD = str(Path(__file__).parents[2])
_FRAME = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)')


def current_location() -> SourceLocation | None:
    """Return the innermost line of the calling stack that is neither torch's nor Hopyard's."""
    return _innermost(_callers(sys._getframe(1)))


def raising_location(traceback: TracebackType | None) -> SourceLocation | None:
    """Return the innermost line of a traceback that is neither torch's nor Hopyard's."""
    return _innermost(reversed(list(_frames(traceback))))


def node_location(node: Node) -> SourceLocation | None:
    """Return the line of the user's source that made `node`, if its metadata tells."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    if not frames:
        return None
    innermost = frames[-1]
    return SourceLocation(innermost["file"], int(innermost["line"]), innermost["function"])


class StackTraces:
    """Writes the frames of the captured function as text, outermost first.

    A formatted frame is kept by code object and line, since most nodes of a model share most
    frames. The code object is part of the key, so that its identity cannot pass to another one.

    Args:
        entry: The function that starts the capture; its own callers are left out.

    Attributes:
        inherited: If set, what :meth:`current` returns: a replay keeps the lines of the original.
    """

    def __init__(self, entry: CodeType) -> None:
        self._entry = entry
        self.inherited: str | None = None
        self._lines: dict[tuple[CodeType, int], str] = {}

    def current(self) -> str | None:
        """Return the stack as `meta["stack_trace"]` holds it, or None if no frame is the user's."""
        if self.inherited is not None:
            return self.inherited
        lines = []
        for frame, line in _callers(sys._getframe(1)):
            if frame.f_code is self._entry:
                break
            lines.append(self._line(frame.f_code, line))
        return "".join(reversed(lines)) or None

    def _line(self, code: CodeType, line: int) -> str:
        known = self._lines.get((code, line))
        if known is None:
            known = _formatted(code, line) if is_users(code) else ""
            self._lines[code, line] = known
        return known


def _formatted(code: CodeType, line: int) -> str:
    source = linecache.getline(code.co_filename, line).strip()
    return f'  File "{code.co_filename}", line {line}, in {code.co_name}\n    {source}\n'


def _callers(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _innermost(frames: Iterator[tuple[FrameType, int]]) -> SourceLocation | None:
    for frame, line in frames:
        code = frame.f_code
        if is_users(code):
            return SourceLocation(code.co_filename, line, code.co_qualname)
    return None


def is_users(code: CodeType) -> bool:
    file = code.co_filename
    # Plugins run inside captures as well; first-party ones are told by the name of their package.
    ours = file.startswith((_TORCH, _HOPYARD, "<")) or "/hopyard_" in file
    return not (ours or file.endswith("/contextlib.py"))
