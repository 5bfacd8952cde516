"""Where in the user's source something happened."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

import torch
from hopyard_hookspecs import SourceLocation

_TORCH = str(Path(torch.__file__).parent)
_HOPYARD = str(Path(__file__).parents[1])


def current_location() -> SourceLocation | None:
    """Return the innermost line of the calling stack that is neither torch's nor Hopyard's."""
    return _innermost(_callers(sys._getframe(1)))


def raising_location(traceback: TracebackType | None) -> SourceLocation | None:
    """Return the innermost line of a traceback that is neither torch's nor Hopyard's."""
    frames = list(_frames(traceback))
    return _innermost(iter(reversed(frames)))


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
        if _is_users(frame):
            return SourceLocation(code.co_filename, line, code.co_qualname)
    return None


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith((_TORCH, _HOPYARD, "<")):
        return False
    module = frame.f_globals.get("__name__", "")
    # Plugins run inside captures as well; only first-party ones can be told by their name.
    return not module.startswith(("hopyard_", "contextlib", "torch."))
