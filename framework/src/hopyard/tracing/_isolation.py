"""Captures inside captures, and who is recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.fx import GraphModule

from hopyard_hookspecs import TracingMode as TracingModeName

from .._torch.dispatch import PROXY_SLOT, infra_mode, without_infra_mode
from .._torch.proxies import ProxyTorchDispatchMode
from .._torch.pytree import tree_flatten, tree_unflatten
from ..errors import UsageError
from ._make_fx import make_fx, trace_function
from ._mode import DecompositionTable
from .bridge._reentry import active_tracer


def get_proxy_mode() -> ProxyTorchDispatchMode | None:
    """Return the mode that records the operators of this thread, or None.

    It may be torch's, if `torch.fx.experimental.proxy_tensor.make_fx` captures inside of ours.
    While a capture is suspended, nobody records.
    """
    mode: ProxyTorchDispatchMode | None = infra_mode(PROXY_SLOT)
    return mode


def get_innermost_proxy_mode() -> ProxyTorchDispatchMode | None:
    """Return the same as :func:`get_proxy_mode`, under torch's other name for it.

    A capture inside a capture takes the place of the outer one; there is never a second mode.
    """
    return get_proxy_mode()


@contextmanager
def disable_proxy_modes_tracing() -> Iterator[ProxyTorchDispatchMode | None]:
    """Suspend whoever records, ours or torch's, and give the suspended mode, or None."""
    with without_infra_mode(PROXY_SLOT) as mode:
        yield mode


@contextmanager
def maybe_enable_thunkify() -> Iterator[None]:
    """Let computations with symbolic numbers enter the graph only if something uses them.

    So it is while an operator runs. For a program's own computations it is for code that computes
    many sizes of which few are used. Without a capture on this thread, nothing changes.
    """
    with _thunkify(True):
        yield


@contextmanager
def maybe_disable_thunkify() -> Iterator[None]:
    """Let computations with symbolic numbers enter the graph where the program does them.

    It undoes :func:`maybe_enable_thunkify` for a part of what that surrounds.
    """
    with _thunkify(False):
        yield


@contextmanager
def _thunkify(enabled: bool) -> Iterator[None]:
    mode = get_proxy_mode()
    if mode is None:
        yield
        return
    # Whoever records, ours or torch's, tells by its tracer.
    tracer = mode.tracer
    before, tracer.enable_thunkify = tracer.enable_thunkify, enabled
    try:
        yield
    finally:
        tracer.enable_thunkify = before


def trace_subgraph(
    function: Callable[..., Any],
    *args: Any,
    decomposition_table: DecompositionTable | None = None,
) -> GraphModule:
    """Trace a body with the engine, the fake mode and the options of the capture around it.

    Args:
        function: The body.
        args: What to call it with. The tensors may be those of the capture; in the body they are
            inputs.
        decomposition_table: What to decompose in the body; as in the capture if not given.

    Raises:
        UsageError: No capture is active on this thread.
        CaptureError: The body cannot be captured.
    """
    tracer = active_tracer()
    if tracer is None:
        raise UsageError(
            "there is no capture to trace a body for",
            hint="call this from a captured function or a trace rule; otherwise use make_fx",
            stage="trace_subgraph",
        )
    return trace_function(tracer.subtracer(decomposition_table), function, args)


def get_isolated_graphmodule(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    tracing_mode: TracingModeName = "real",
    decomposition_table: DecompositionTable | None = None,
) -> GraphModule:
    """Capture `function(*args, **kwargs)` without a trace of it in the capture around it.

    Tensors of the outer capture are plain values here: as arguments they become inputs, and if the
    function closes over one it becomes a constant.

    Returns:
        A graph module that takes one list, the leaves of `(args, kwargs)` as torch's pytree orders
        them.
    """
    wrapped, leaves = wrapper_and_args_for_make_fx(function, args, kwargs)
    with disable_proxy_modes_tracing():
        return make_fx(wrapped, decomposition_table, tracing_mode)(leaves)


def wrapper_and_args_for_make_fx(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Callable[[list[Any]], Any], list[Any]]:
    """Return a function of one list, and a list, such that calling it so calls `function`.

    `make_fx` takes functions of positional arguments only.

    Example::

        wrapped, leaves = wrapper_and_args_for_make_fx(model, (x,), {"mask": mask})
        graph_module = make_fx(wrapped)(leaves)
    """
    leaves, spec = tree_flatten((tuple(args), dict(kwargs)))

    # Placeholders are named after the parameter, and torch's helper calls it so.
    def wrapped(flat_args: list[Any]) -> Any:
        positional, keywords = tree_unflatten(flat_args, spec)
        return function(*positional, **keywords)

    return wrapped, leaves


def fake_signature(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return `function` as one of exactly `count` positional parameters, `arg0` and so on.

    fx reads the parameters of what it traces off its code, and makes one node for `*args`.
    `hopyard.make_fx` does not need this.
    """
    # Only compiling code gives a function parameters of a chosen number.
    names = ", ".join(f"arg{index}" for index in range(count))
    made: Callable[..., Any] = eval(f"lambda {names}: function({names})", {"function": function})
    return made
