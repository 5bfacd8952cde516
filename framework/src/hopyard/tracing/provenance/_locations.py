"""Where in the user's source something happened."""

from __future__ import annotations

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
    return _innermost(callers(sys._getframe(1)))


def calling_location(frame: FrameType | None) -> SourceLocation | None:
    """Return the innermost line of a frame and those above that is neither torch's nor ours."""
    return _innermost(callers(frame))


def raising_location(traceback: TracebackType | None) -> SourceLocation | None:
    """Return the innermost line of a traceback that is neither torch's nor Hopyard's."""
    return _innermost(reversed(list(_frames(traceback))))


def node_location(node: Node) -> SourceLocation | None:
    """Return the line of the user's source that made `node`, if its metadata tells."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    if not frames:
        return None
    users = [frame for frame in frames if _is_users_file(frame["file"])]
    innermost = (users or frames)[-1]
    return SourceLocation(innermost["file"], int(innermost["line"]), innermost["function"])


def callers(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    """Yield a frame and those that called it, with the line that each is at."""
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
    """Say whether code is neither torch's nor Hopyard's."""
    return _is_users_file(code.co_filename)


def _is_users_file(file: str) -> bool:
    # Plugins run inside captures as well; first-party ones are told by the name of their package.
    ours = file.startswith((_TORCH, _HOPYARD, "<")) or "/hopyard_" in file
    return not (ours or file.endswith("/contextlib.py"))
