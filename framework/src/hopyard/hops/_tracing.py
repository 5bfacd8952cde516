"""A call in a tracer, ours or torch's: one node whose first operand is the body as a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import Parameter

from .._torch.proxies import (
    get_proxy_slot,
    run_with_notes,
    trace_subgraph_with_torch,
    track_tensor_tree,
)
from .._torch.pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten
from ..tracing import Region, Tracer, lift_captured, nest_inputs
from . import _function_modes as function_modes
from ._arguments import refuse_what_no_graph_holds
from ._autograd import refuse_lost_gradients
from ._captures import name_of, not_looking
from ._effects import effects_of, may_write
from ._returns import Packed, pack, pack_for, restoring

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
    refuse_what_no_graph_holds(operator, operands, kwargs)
    before = [_state(value) for value in operands]
    run = _FirstRun(operator, body, len(operands))
    region = tracer.trace_region(run, operands, f"{operator.name()}_body")
    _refuse_changes(operator, before, [_state(value) for value in operands])
    _refuse_writes(operator, body, region, operands)
    operator.check_captures(body, region.captured)
    if not (tracer.is_nested or tracer.options.pre_dispatch):
        refuse_lost_gradients(operator, body, region.captured)
    tracer.recorder.attributes.attach(region.graph_module, f"{operator.name()}_body")
    operands = [*operands, *region.captured]
    node = tracer.record_call(operator, [region.graph_module, *operands], kwargs, operator.name())
    body = run.replay(region.graph_module, operands)
    with not_looking():
        result = operator(body, *operands, **kwargs)
    tracer.track(pack_for(node, operator, result, run.returned), node)
    return result


def trace_operator(
    tracer: Tracer, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Record a call as it is; modules among the operands become attributes of the graph."""
    refuse_what_no_graph_holds(operator, args, kwargs)
    for arg in args:
        if isinstance(arg, torch.nn.Module) and arg not in set(tracer.root.children()):
            tracer.recorder.attributes.attach(arg, f"{operator.name()}_module")
    node = tracer.record_call(operator, args, kwargs, operator.name())
    result = operator(*args, **kwargs)
    tracer.track(pack_for(node, operator, result), node)
    return result


def rule_for_torch(operator: Operator) -> Callable[..., Any]:
    """Return the rule that records a call in torch's tracer, captured values lifted as in ours."""

    # A function made for the operator, since the tracer walks the stack for each node: a frame
    # between this one and its caller shows in `make bench-hops`.
    def trace_with_torch(mode: Any, body: Callable[..., Any], *operands: Any, **config: Any) -> Any:
        tracer = mode.tracer
        outer = _enclosing.get()
        enclosing = (*outer, tracer)
        around = _numbers_around(tracer)
        leaves, spec = tree_flatten(operands)
        refuse_what_no_graph_holds(operator, operands, config)
        before = [_state(value) for value in operands]
        traced: GraphModule | None = None
        while traced is None:
            run = _FirstRun(operator, run_with_notes(body), len(operands))
            token = _enclosing.set(enclosing)
            try:
                # For containers torch's tracer makes a graph with a calling convention of its own.
                traced = trace_subgraph_with_torch(run.flat(spec))(*leaves, *around)
            except RuntimeError as error:
                if "is not tracked with proxy" not in str(error):
                    raise
                tensors = _tensors_around(enclosing, (*leaves, *around))
                if not tensors:
                    raise
                # torch's tracer cannot compute every size of a captured tensor, but reads all sizes
                # off what it is given.
                around += tensors
            finally:
                _enclosing.reset(token)
        around = _drop_unused(traced, around)
        if any(leaf is not operand for leaf, operand in zip_longest(leaves, operands)):
            nest_inputs(traced, operands)
        _refuse_changes(operator, before, [_state(value) for value in operands])

        def is_captured(tensor: Tensor) -> bool:
            if tensor.requires_grad and torch.is_grad_enabled():
                return True
            if operator.takes_captured and (mode.pre_dispatch or isinstance(tensor, Parameter)):
                # torch.export looks for constants in the program's own graph, not in its bodies,
                # and torch's tracer for parameters.
                return True
            return any(get_proxy_slot(tensor, known, None) is not None for known in enclosing)

        region = lift_captured(traced, is_captured)
        region = region._replace(captured=(*around, *region.captured))
        _refuse_writes(operator, body, region, operands)
        operator.check_captures(body, region.captured)
        # Before dispatch, as torch.export traces, gradients are still to come: none can be lost.
        if not (outer or mode.pre_dispatch):
            refuse_lost_gradients(operator, body, region.captured)
        name = tracer.get_fresh_qualname(f"{operator.name()}_body")
        tracer.root.register_module(name, region.graph_module)
        call = (*operands, *region.captured)
        proxies = tree_map(tracer.unwrap_proxy, (region.graph_module, *call))
        proxy = tracer.create_proxy(
            "call_function", operator, proxies, config, name=operator.name()
        )
        with not_looking():
            result = operator(run.replay(region.graph_module, call), *call, **config)
        packed = pack_for(proxy.node, operator, result, run.returned)
        track_tensor_tree(packed, proxy, constant=None, tracer=tracer)
        return result

    return trace_with_torch


def trace_operator_with_torch(mode: Any, operator: Operator, *args: Any, **kwargs: Any) -> Any:
    """Record a call in torch's tracer."""
    tracer = mode.tracer
    refuse_what_no_graph_holds(operator, args, kwargs)
    for arg in args:
        if isinstance(arg, torch.nn.Module) and arg not in set(tracer.root.children()):
            name = tracer.get_fresh_qualname(f"{operator.name()}_module")
            tracer.root.register_module(name, arg)
    proxies = tree_map(tracer.unwrap_proxy, args)
    proxy = tracer.create_proxy("call_function", operator, proxies, kwargs, name=operator.name())
    result = operator(*args, **kwargs)
    packed = pack_for(proxy.node, operator, result)
    track_tensor_tree(packed, proxy, constant=None, tracer=tracer)
    return result


class _FirstRun:
    """A body that remembers what it returned, so that its caller need not run it once more.

    To a tracer it returns what a graph can return.

    Args:
        operator: The operator whose body it is.
        body: The body.
        count: How many operands it takes. Further ones are what it may use without being given it.

    Attributes:
        returned: What it returned last.
    """

    returned: Packed

    def __init__(self, operator: Operator, body: Callable[..., Any], count: int) -> None:
        self._operator = operator
        self._body = body
        self._count = count
        self._outputs: list[Any] = []
        self.__name__ = getattr(body, "__name__", type(body).__name__)

    def __call__(self, *operands: Any) -> Any:
        with function_modes.shown(aside=True):
            output = self._body(*operands[: self._count])
        return self._packed(output)

    def flat(self, spec: TreeSpec) -> Callable[..., Any]:
        """Return the body as a function of the leaves of its operands."""
        count = spec.num_leaves
        # What a graph calls does not depend on the mode, and says itself where it comes from.
        notes = not isinstance(self._body, GraphModule)

        # torch's tracer walks the stack for each operator: a frame less is worth some code.
        def body(*leaves: Any) -> Any:
            with function_modes.shown(notes=notes, aside=True):
                output = self._body(*tree_unflatten(list(leaves[:count]), spec))
            return self._packed(output)

        body.__name__ = self.__name__
        return body

    def replay(self, graph_module: GraphModule, operands: Sequence[Any]) -> Callable[..., Any]:
        """Return a body that gives the result of the run if it is called with the same operands."""
        again = restoring(graph_module, self.returned.restore)
        if len(self._outputs) != 1 or _makes_symbols(graph_module):
            return again
        outputs = self._outputs

        def body(*given: Any) -> Any:
            # A second call is one more run: it must return tensors of its own.
            if outputs and _are_same(given, operands):
                return outputs.pop()
            return again(*given)

        return body

    def _packed(self, output: Any) -> Any:
        self._outputs.append(output)
        self.returned = pack(self._operator, output)
        return self.returned.value


def _numbers_around(tracer: Any) -> list[Any]:
    """Return the symbolic numbers that torch's tracer knows, one for each symbol."""
    known = tracer.sympy_expr_tracker
    return [entry.value for symbol, entry in known.items() if symbol.is_Symbol]


def _tensors_around(tracers: Sequence[Any], known: Sequence[Any]) -> list[Tensor]:
    """Return the tensors that torch's tracers know, without those that are known already."""
    seen = {id(value) for value in known}
    tensors = []
    for tracer in reversed(tracers):
        for tensor in list(tracer.tensor_tracker):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                tensors.append(tensor)
    return tensors


def _drop_unused(graph_module: GraphModule, around: list[Any]) -> list[Any]:
    """Remove the last inputs of a body if it does not use them; return what the others are."""
    if not around:
        return around
    inputs = graph_module.graph.find_nodes(op="placeholder")[-len(around) :]
    used = []
    for node, value in zip(inputs, around, strict=True):
        if node.users:
            used.append(value)
        else:
            graph_module.graph.erase_node(node)
    graph_module.recompile()
    return used


def _makes_symbols(graph_module: GraphModule) -> bool:
    """Say whether each run makes symbols for values that are only known then."""
    return any("unbacked_bindings" in node.meta for node in graph_module.graph.nodes)


def _are_same(given: Sequence[Any], operands: Sequence[Any]) -> bool:
    ours, theirs = tree_leaves(list(operands)), tree_leaves(list(given))
    return len(ours) == len(theirs) and all(map(_is_same, ours, theirs))


def _is_same(one: Any, other: Any) -> bool:
    return one is other


def _state(value: Any) -> tuple[Any, ...]:
    """Return what a body must leave alone, and no operator would tell that it has not."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return ()
    return value.shape, value.stride(), value.storage_offset()


def _refuse_writes(
    operator: Operator, body: Callable[..., Any], region: Region, operands: Sequence[Any]
) -> None:
    """Refuse a body that changes what it is given, unless the definition says that bodies do."""
    if operator.definition.writes or not may_write(region.graph_module):
        return
    effects = effects_of(region.graph_module)
    if effects.writes_constants:
        raise operator.refusal("changes a constant in place", "pass the tensor as an operand")
    names = [f"operand {index}" for index in range(len(tree_leaves(operands)))]
    names += [repr(name_of(value, body) or "a captured tensor") for value in region.captured]
    for index in sorted(effects.written):
        raise operator.refusal(
            f"changes {names[index]} in place", "return the new value instead, or clone it first"
        )


def _refuse_changes(operator: Operator, before: Sequence[Any], after: Sequence[Any]) -> None:
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new:
            raise operator.refusal(
                f"changes operand {index} in place",
                "return the new value instead, or clone it first",
            )
