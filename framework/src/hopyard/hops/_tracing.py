"""A call in a tracer, ours or torch's: one node whose first operand is the body as a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from .._torch.fake import FakeTensor
from .._torch.proxies import get_proxy_slot, trace_subgraph_with_torch, track_tensor_tree
from .._torch.pytree import tree_leaves, tree_map
from ..errors import UnsupportedError
from ..tracing import Tracer, current_location, lift_captured
from . import _function_modes as function_modes
from ._autograd import refuse_lost_gradients
from ._captures import not_looking

if TYPE_CHECKING:
    from ._operator import Operator

_enclosing: ContextVar[tuple[Any, ...]] = ContextVar("_enclosing", default=())
"""torch's tracers of the regions around the one that is being traced, outermost first."""


def trace_region(
    tracer: Tracer, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Record a call whose first operand is the body as a graph module.

    Tensors that the body captured from the enclosing capture become further operands.

    Raises:
        UnsupportedError: The body changes an operand in place, or captures what cannot become one.
    """
    body, *operands = args
    before = [_state(value) for value in operands]
    run = _FirstRun(body)
    region = tracer.trace_region(run, operands, f"{operator.name()}_body")
    _refuse_changes(operator, before, [_state(value) for value in operands])
    operator.check_captures(body, region.captured)
    if not (tracer.is_nested or tracer.options.pre_dispatch):
        refuse_lost_gradients(operator, body, region.captured)
    tracer.recorder.attributes.attach(region.graph_module, f"{operator.name()}_body")
    operands = [*operands, *region.captured]
    node = tracer.record_call(operator, [region.graph_module, *operands], kwargs, operator.name())
    body = run.replay(region.graph_module, operands)
    with not_looking():
        result = operator(body, *operands, **kwargs)
    return tracer.track(result, node)


def trace_operator(
    tracer: Tracer, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Record a call as it is; modules among the operands become attributes of the graph."""
    for arg in args:
        if isinstance(arg, torch.nn.Module) and arg not in set(tracer.root.children()):
            tracer.recorder.attributes.attach(arg, f"{operator.name()}_module")
    node = tracer.record_call(operator, args, kwargs, operator.name())
    return tracer.track(operator(*args, **kwargs), node)


def trace_region_with_torch(
    mode: Any, operator: Operator, body: Callable[..., Any], *operands: Any, **config: Any
) -> Any:
    """Record a call in torch's tracer, captured tensors lifted as in ours."""
    tracer = mode.tracer
    outer = _enclosing.get()
    enclosing = (*outer, tracer)
    graph_of = body if isinstance(body, GraphModule) else None
    run = _FirstRun(body)
    before = [_state(value) for value in operands]
    token = _enclosing.set(enclosing)
    try:
        traced = trace_subgraph_with_torch(graph_of or run)(*operands)
    finally:
        _enclosing.reset(token)
    _refuse_changes(operator, before, [_state(value) for value in operands])

    def is_captured(tensor: Tensor) -> bool:
        if tensor.requires_grad and torch.is_grad_enabled():
            return True
        return any(get_proxy_slot(tensor, known, None) is not None for known in enclosing)

    region = lift_captured(traced, is_captured)
    operator.check_captures(body, region.captured)
    # Before dispatch, as torch.export traces, gradients are still to come: none can be lost.
    if not (outer or mode.pre_dispatch):
        refuse_lost_gradients(operator, body, region.captured)
    name = tracer.get_fresh_qualname(f"{operator.name()}_body")
    tracer.root.register_module(name, region.graph_module)
    call = (*operands, *region.captured)
    proxies = tree_map(tracer.unwrap_proxy, (region.graph_module, *call))
    proxy = tracer.create_proxy("call_function", operator, proxies, config, name=operator.name())
    with not_looking():
        result = operator(run.replay(region.graph_module, call), *call, **config)
    return track_tensor_tree(result, proxy, constant=None, tracer=tracer)


def trace_operator_with_torch(mode: Any, operator: Operator, *args: Any, **kwargs: Any) -> Any:
    """Record a call in torch's tracer."""
    tracer = mode.tracer
    for arg in args:
        if isinstance(arg, torch.nn.Module) and arg not in set(tracer.root.children()):
            name = tracer.get_fresh_qualname(f"{operator.name()}_module")
            tracer.root.register_module(name, arg)
    proxies = tree_map(tracer.unwrap_proxy, args)
    proxy = tracer.create_proxy("call_function", operator, proxies, kwargs, name=operator.name())
    return track_tensor_tree(operator(*args, **kwargs), proxy, constant=None, tracer=tracer)


class _FirstRun:
    """A body that remembers what it returned, so that its caller need not run it once more."""

    def __init__(self, body: Callable[..., Any]) -> None:
        self._body = body
        self._outputs: list[Any] = []
        self.__name__ = getattr(body, "__name__", type(body).__name__)

    def __call__(self, *operands: Any) -> Any:
        with function_modes.shown():
            output = self._body(*operands)
        self._outputs.append(output)
        return output

    def replay(self, graph_module: GraphModule, operands: Sequence[Any]) -> Callable[..., Any]:
        """Return a body that gives the result of the run if it is called with the same operands."""
        if len(self._outputs) != 1 or _makes_symbols(graph_module):
            return graph_module
        outputs = self._outputs

        def body(*given: Any) -> Any:
            # A second call is one more run: it must return tensors of its own.
            if outputs and _are_same(given, operands):
                return outputs.pop()
            return graph_module(*given)

        return body


def _makes_symbols(graph_module: GraphModule) -> bool:
    """Say whether each run makes symbols for values that are only known then."""
    return any("unbacked_bindings" in node.meta for node in graph_module.graph.nodes)


def _are_same(given: Sequence[Any], operands: Sequence[Any]) -> bool:
    ours, theirs = tree_leaves(list(operands)), tree_leaves(list(given))
    return len(ours) == len(theirs) and all(map(_is_same, ours, theirs))


def _is_same(one: Any, other: Any) -> bool:
    return one is other


def _state(value: Any) -> tuple[Any, ...]:
    """Return what tracing a body must leave alone.

    The values in a fake tensor are none of it.
    """
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return ()
    version = 0 if isinstance(value, FakeTensor) or value.is_inference() else value._version
    return value.shape, value.stride(), value.storage_offset(), version


def _refuse_changes(operator: Operator, before: Sequence[Any], after: Sequence[Any]) -> None:
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new:
            raise UnsupportedError(
                f"the body of {operator.name()} changes operand {index} in place",
                hint="return the new value instead, or clone the operand first",
                stage=operator.name(),
                location=current_location(),
            )
