"""Changes around the program that torch tells no function mode of.

Safeguards watch them like functions, under the names given here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, NamedTuple

import torch
from torch import is_grad_enabled, is_inference_mode_enabled

from hopyard_hookspecs import SourceLocation

from .._torch.dispatch import is_any_autocast_enabled
from .._torch.proxies import current_proxy_mode
from ..tracing.provenance._locations import calling_location
from ._blocks import location_of_block

_APPLY: Final = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


def active_tracing() -> Any:
    """Return the mode of the tracer that records on this thread, torch's or ours, or None.

    Its `pre_dispatch` says whether it records above autograd.
    """
    return current_proxy_mode()


def inference_mode_changed(enabled: bool, location: SourceLocation | None) -> None:
    """Watched like a function: the inference mode changed before the call at hand.

    Args:
        enabled: Whether it is on now.
        location: The line of the block or function in question.
    """


def autocast_changed(enabled: bool, location: SourceLocation | None) -> None:
    """Watched like a function: autocast, on around the program, is not as it is there.

    Args:
        enabled: Whether it is again as it was when the capture began.
        location: The line of the block or function in question.
    """


def function_applied(
    function: type[torch.autograd.Function], running: bool, location: SourceLocation | None
) -> None:
    """Watched like a function: a custom `autograd.Function` runs its forward, or ran it.

    A forward that calls no function of torch is not noticed.

    Args:
        function: The class.
        running: Whether it runs now.
        location: The line that applies it.
    """


class Event(NamedTuple):
    """One change: what is watched, and what its checks are told."""

    function: Callable[..., None]
    args: tuple[Any, ...]


class _Application(NamedTuple):
    function: type[torch.autograd.Function]
    call: tuple[Any, ...]
    location: SourceLocation | None


class Ambient:
    """What is on around the program, compared at each function call.

    Attributes:
        grad_enabled: The grad mode as far as it is known.
        attentive: Whether every call must be looked at, and not only one in another grad mode.
    """

    def __init__(self) -> None:
        self.grad_enabled = is_grad_enabled()
        self._inference = is_inference_mode_enabled()
        self._autocast = _autocast() if is_any_autocast_enabled() else None
        self._autocast_now = self._autocast
        self._application: _Application | None = None
        self.attentive = self._autocast is not None

    def synchronize(self) -> None:
        """Take the grad mode as it is: whoever changed it was seen."""
        self.grad_enabled = is_grad_enabled()

    def changes(self) -> Iterator[Event]:
        """Yield what changed since the last call."""
        inference = is_inference_mode_enabled()
        if inference is not self._inference:
            self._inference = inference
            self.synchronize()
            where = location_of_block("inference_mode") if inference else None
            yield Event(inference_mode_changed, (inference, where))
        elif is_grad_enabled() is not self.grad_enabled or self._application is not None:
            yield from self._applications()
        if self._autocast is not None:
            now = _autocast()
            if now != self._autocast_now:
                self._autocast_now = now
                again = now == self._autocast
                where = None if again else location_of_block("autocast")
                yield Event(autocast_changed, (again, where))

    def finished(self) -> Iterator[Event]:
        """Yield what ended with the program."""
        if self._application is not None:
            yield self._left(self._application)

    def _applications(self) -> Iterator[Event]:
        frame = _outermost_application()
        application = self._application
        call = None if frame is None else _call(frame)
        if application is not None and call != application.call:
            yield self._left(application)
        if frame is not None and call is not None and self._application is None:
            where = calling_location(frame)
            applied = _Application(frame.f_locals["cls"], call, where)
            self._application = applied
            self.attentive = True
            yield Event(function_applied, (applied.function, True, where))

    def _left(self, application: _Application) -> Event:
        self._application = None
        self.attentive = self._autocast is not None
        return Event(function_applied, (application.function, False, application.location))


def _call(frame: FrameType) -> tuple[Any, ...]:
    """Return what tells one application from the next, whose frame may be in the same memory."""
    caller = frame.f_back
    return frame.f_locals["cls"], id(frame), caller and (caller.f_code, caller.f_lasti)


def _outermost_application() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    found = None
    while frame is not None:
        if frame.f_code is _APPLY:
            found = frame
        frame = frame.f_back
    return found


def _autocast() -> tuple[Any, ...]:
    return tuple(
        (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
    )
