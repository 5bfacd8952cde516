"""The lines that led to a node, as text: outermost first, each with its source."""

from __future__ import annotations

import functools
import linecache
import sys
from traceback import FrameSummary, StackSummary
from types import CodeType
from typing import Protocol

from ..._torch.provenance import stack_trace_anchors, uninteresting_files
from ._locations import callers, is_users


class StackTraces(Protocol):
    """Writes the calling stack as text."""

    def current(self) -> str | None:
        """Return the stack as `meta["stack_trace"]` holds it, or None if there is nothing to
        show.
        """

    def for_region(self) -> StackTraces | None:
        """Return what writes the stacks of nodes in bodies of higher-order operators, if anything
        does.
        """


class UserTraces:
    """Shows the frames that are the user's, from the captured function on.

    A formatted frame is kept by code object and line, since most nodes of a model share most
    frames. The code object is part of the key, so that its identity cannot pass to another one.

    Args:
        entry: The function that starts the capture; its own callers are left out.
    """

    def __init__(self, entry: CodeType) -> None:
        self._entry = entry
        self._lines: dict[tuple[CodeType, int], str] = {}

    def current(self) -> str | None:
        """Return the stack, or None if no frame is the user's."""
        lines = []
        for frame, line in callers(sys._getframe(1)):
            if frame.f_code is self._entry:
                break
            lines.append(self._line(frame.f_code, line))
        return "".join(reversed(lines)) or None

    def for_region(self) -> UserTraces:
        """Return these: errors in regions name their lines, too."""
        return self

    def _line(self, code: CodeType, line: int) -> str:
        known = self._lines.get((code, line))
        if known is None:
            known = _formatted(code, line) if is_users(code) else ""
            self._lines[code, line] = known
        return known


class ForwardTraces:
    """Shows what torch shows: the frames of functions called `forward` and of annotated ones.

    The stack is the thread's whole stack, callers of the capture included.

    Args:
        regions: Whether nodes in bodies of higher-order operators have traces as well.
    """

    def __init__(self, *, regions: bool = False) -> None:
        self._regions = regions
        self._shown: dict[CodeType, bool] = {}
        self._texts: dict[tuple[tuple[CodeType, int], ...], str] = {}

    def current(self) -> str | None:
        """Return the stack, or None if no frame is shown."""
        shown = self._shown
        frames: list[tuple[CodeType, int]] = []
        # For each node, over the whole stack: `make bench-trace` shows what it costs.
        for frame, line in callers(sys._getframe(1)):
            code = frame.f_code
            show = shown.get(code)
            if show is None:
                show = shown[code] = _is_shown(code)
            if show:
                frames.append((code, line))
        if not frames:
            return None
        key = tuple(frames)
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = _summary(key)
        return text

    def for_region(self) -> ForwardTraces | None:
        """Return these, or None: torch's tracer leaves regions without, but with module stacks."""
        return self if self._regions else None


def _formatted(code: CodeType, line: int) -> str:
    source = linecache.getline(code.co_filename, line).strip()
    return f'  File "{code.co_filename}", line {line}, in {code.co_name}\n    {source}\n'


def _summary(frames: tuple[tuple[CodeType, int], ...]) -> str:
    summary = StackSummary.from_list(
        [FrameSummary(code.co_filename, line, code.co_name) for code, line in reversed(frames)]
    )
    return "".join(summary.format()).strip()


def _is_shown(code: CodeType) -> bool:
    named = code.co_name == "forward" or (code.co_filename, code.co_name) in stack_trace_anchors
    return named and code.co_filename not in _internal_files()


@functools.cache
def _internal_files() -> frozenset[str]:
    return frozenset(uninteresting_files())
