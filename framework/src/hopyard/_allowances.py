"""Findings that the user has looked at and allows, where they occur."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from dataclasses import dataclass

from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Allowance:
    """Codes of hazards that the user allows, and why."""

    codes: frozenset[str]
    reason: str


Listener = Callable[[Allowance, bool], None]
"""Told of each allowance on its thread when it begins (True) and ends (False)."""


class _Thread(threading.local):
    active: tuple[Allowance, ...] = ()
    listeners: tuple[Listener, ...] = ()


_thread = _Thread()


class _Allow(ContextDecorator):
    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance

    def __enter__(self) -> None:
        for listener in _thread.listeners:
            listener(self._allowance, True)
        _thread.active = (*_thread.active, self._allowance)

    def __exit__(self, *error: object) -> None:
        active = list(_thread.active)
        position = len(active) - 1 - active[::-1].index(self._allowance)
        _thread.active = (*active[:position], *active[position + 1 :])
        for listener in _thread.listeners:
            listener(self._allowance, False)


def allow(*codes: str, reason: str = "") -> _Allow:
    """Return what allows findings in the block, or in the function that it decorates.

    An allowed finding refuses nothing and warns of nothing; it is kept with the program, with the
    reason. Outside of captures this does nothing, and it does not import torch.

    Example::

        with hopyard.allow("HY101", reason="the scale is a constant of the loss by design"):
            with torch.no_grad():
                scale = x.abs().max()

    Args:
        codes: What to allow, for example `"HY101"`.
        reason: Why, for those who read the program's findings.

    Raises:
        UsageError: There is no code, or no reason.
        UnknownNameError: No safeguard knows a code; raised where a capture meets it.
    """
    if not codes or not all(isinstance(code, str) for code in codes):
        raise UsageError(
            "allow was given no hazard codes",
            hint='write hopyard.allow("HY101", reason="...")',
            stage="allow",
        )
    if not reason.strip():
        raise UsageError(
            f"{', '.join(codes)} would be allowed without a reason",
            hint=f'write hopyard.allow({", ".join(map(repr, codes))}, reason="...")',
            stage="allow",
        )
    return _Allow(Allowance(frozenset(codes), reason.strip()))


def allowances() -> tuple[Allowance, ...]:
    """Return what is allowed on this thread now, the outermost first."""
    return _thread.active


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of allowances on this thread."""
    before = _thread.listeners
    _thread.listeners = (*before, listener)
    try:
        yield
    finally:
        _thread.listeners = before
