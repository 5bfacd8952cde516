"""How torch's higher-order operators find the tracer when they trace their bodies.

torch keeps the active tracer in one variable for all threads. While any capture of ours runs, that
variable holds a forwarder that looks the tracer up for the calling thread, so that captures on
several threads do not meet.

The same holds for the flag by which compiled functions learn that they are traced. They refuse to
be, and rightly: what a compiler has made of a function need not call any operator, and would leave
the example's result in the graph as a constant.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule

from ..._torch import proxies
from ..._torch.fake import FakeTensorMode

if TYPE_CHECKING:
    from .._tracer import Tracer


class _Active(threading.local):
    tracer: Tracer | None = None


class Forwarder:
    """Answers as torch's active tracer does, for the capture of the calling thread."""

    @property
    def fake_tensor_mode(self) -> FakeTensorMode | None:
        """The capture's fake mode; None in a real capture and on a thread without one."""
        tracer = _active.tracer
        return None if tracer is None else tracer.options.fake_mode

    def trace_subgraph(self, function: Callable[..., Any], *args: Any) -> GraphModule:
        """Trace a body with the engine that traces the program around it."""
        return _subgraph(function, args, None)

    def trace_subgraph_custom_decomp(
        self, function: Callable[..., Any], table: Mapping[Any, Callable[..., Any]], *args: Any
    ) -> GraphModule:
        """Trace a body with a decomposition table of its own."""
        return _subgraph(function, args, table)


class Flag:
    """True on threads that capture, elsewhere what the displaced flag is."""

    def __bool__(self) -> bool:
        return _active.tracer is not None or bool(_displaced_flag)


_active = _Active()
_forwarder = Forwarder()
_flag = Flag()
_lock = threading.Lock()
_captures = 0
_displaced: Any = None
_displaced_flag: Any = False


def active_tracer() -> Tracer | None:
    """Return the tracer of the innermost capture on this thread, whether it records or not."""
    return _active.tracer


@contextmanager
def announced(tracer: Tracer) -> Iterator[None]:
    """Let torch's operators find `tracer` on this thread."""
    outer, _active.tracer = _active.tracer, tracer
    _enter()
    try:
        yield
    finally:
        _leave()
        _active.tracer = outer


def _enter() -> None:
    global _captures, _displaced, _displaced_flag
    with _lock:
        if _captures == 0:
            _displaced, _displaced_flag = proxies.active_tracer(), proxies.tracing_flag()
            proxies.set_active_tracer(_forwarder)
            proxies.set_tracing_flag(_flag)
        _captures += 1


def _leave() -> None:
    global _captures, _displaced, _displaced_flag
    with _lock:
        _captures -= 1
        if _captures == 0:
            proxies.set_active_tracer(_displaced)
            proxies.set_tracing_flag(_displaced_flag)
            _displaced, _displaced_flag = None, False


def _subgraph(
    function: Callable[..., Any], args: tuple[Any, ...], table: Mapping[Any, Any] | None
) -> GraphModule:
    from .._make_fx import make_fx, trace_function

    if _active.tracer is None:
        # Another thread captures; this one runs an operator that wants a graph all the same.
        return make_fx(function, table)(*args)
    inner = _active.tracer.subtracer(table)
    body = trace_function(inner, function, args)
    inner.check_when_run(body)
    return body
