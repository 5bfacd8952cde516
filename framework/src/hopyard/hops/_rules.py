"""What a higher-order operator does on each surface unless its author says otherwise.

Only tracers keep a region. Everything else sees through to the eager definition, which is always
right and never surprising.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._torch.dispatch import DispatchKey, TransformType, below_autograd
from .._torch.fake import FakeTensor
from .._torch.proxies import (
    ProxyTorchDispatchMode,
    current_proxy_mode,
    get_proxy_slot,
    register_fake_rule,
    trace_subgraph_with_torch,
    track_tensor_tree,
)
from .._torch.pytree import tree_leaves, tree_map
from ..errors import OptionError, UnsupportedError, closest_match
from ..tracing import Tracer, current_location, lift_captured, refuse_lost_gradient
from ._operator import Operator

SURFACES: Mapping[str, str] = {
    "autograd": "(operator, *args, **kwargs): called when an operand may require grad",
    "fake": "(*args, **kwargs): computes with fake tensors",
    "functionalize": "(context, operator, *args, **kwargs): removes mutation and views",
    "trace": "(tracer, operator, args, kwargs): records the call in Hopyard's tracer",
    "torch-trace": "(mode, operator, *args, **kwargs): records the call in torch's tracer",
    "transform": "(interpreter, *args, **kwargs): called under vmap, grad, jvp and jacrev",
}
"""The surfaces a definition may have rules for, and how a rule is called."""


_enclosing: ContextVar[tuple[Any, ...]] = ContextVar("_enclosing", default=())
"""torch's tracers of the regions around the one that is being traced, outermost first."""


def install(operator: Operator) -> None:
    """Register the rules of `operator`, its author's or the defaults, with torch.

    Raises:
        OptionError: The definition has a rule for a surface that does not exist.
    """
    definition = operator.definition
    for surface in definition.rules:
        if surface not in SURFACES:
            guess = closest_match(surface, SURFACES)
            raise OptionError(
                f"{definition.name} has a rule for {surface!r}, which is no surface",
                hint=f"did you mean {guess!r}?" if guess else f"surfaces: {', '.join(SURFACES)}",
                stage=definition.name,
            )
    rules = {**_defaults(definition.kind), **definition.rules}
    operator.trace_rule = rules["trace"]
    operator.py_impl(DispatchKey.CompositeExplicitAutograd)(definition.eager)
    operator.py_impl(DispatchKey.Autograd)(_bind(rules["autograd"], operator))
    operator.py_functionalize_impl(_bind_second(rules["functionalize"], operator))
    operator.py_impl(ProxyTorchDispatchMode)(_bind_second(rules["torch-trace"], operator))
    register_fake_rule(operator, definition.rules.get("fake", definition.eager), skip_cache=True)
    inline = definition.rules.get("transform", _bind_interpreter(definition.eager))
    for transform in (TransformType.Vmap, TransformType.Grad, TransformType.Jvp):
        operator.py_impl(transform)(inline)


def _defaults(kind: str) -> dict[str, Callable[..., Any]]:
    if kind == "region":
        return {
            "autograd": inline_under_grad,
            "functionalize": functionalize_region,
            "trace": trace_region,
            "torch-trace": trace_region_with_torch,
        }
    return {
        "autograd": inline_under_grad,
        "functionalize": functionalize_operator,
        "trace": trace_operator,
        "torch-trace": trace_operator_with_torch,
    }


def _bind(rule: Callable[..., Any], operator: Operator) -> Callable[..., Any]:
    return lambda *args, **kwargs: rule(operator, *args, **kwargs)


def _bind_second(rule: Callable[..., Any], operator: Operator) -> Callable[..., Any]:
    return lambda first, *args, **kwargs: rule(first, operator, *args, **kwargs)


def _bind_interpreter(eager: Callable[..., Any]) -> Callable[..., Any]:
    return lambda interpreter, *args, **kwargs: eager(*args, **kwargs)


def inline_under_grad(operator: Operator, *args: Any, **kwargs: Any) -> Any:
    """Let autograd see the operators of the eager definition if a gradient may be wanted.

    The gradient is right whatever the body does. It is wanted if an operand requires grad; the
    region is not kept in such a capture. It may be if nothing records the call: only the body knows
    what it uses.
    """
    if _is_unrecorded(operator) or any(map(_has_gradient, tree_leaves(args))):
        return operator.definition.eager(*args, **kwargs)
    with below_autograd():
        return operator(*args, **kwargs)


def functionalize_region(
    context: Any, operator: Operator, body: Callable[..., Any], *operands: Any, **config: Any
) -> Any:
    """Functionalize the body; refuse one that mutates what it is given.

    Raises:
        UnsupportedError: The body changes an operand in place.
    """

    def watched(*values: Any) -> Any:
        before = [_version(value) for value in values]
        result = body(*values)
        _refuse_changes(operator, before, [_version(value) for value in values])
        return result

    unwrapped = context.unwrap_tensors(operands)
    with context.redispatch_to_next():
        result = operator(context.functionalize(watched), *unwrapped, **config)
    return context.wrap_tensors(result)


def functionalize_operator(context: Any, operator: Operator, *args: Any, **kwargs: Any) -> Any:
    """Call the operator on what the functional tensors hold."""
    with context.redispatch_to_next():
        result = operator(*context.unwrap_tensors(args), **kwargs)
    return context.wrap_tensors(result)


def trace_region(
    tracer: Tracer, operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Record a call whose first operand is the body as a graph module.

    Tensors that the body captured from the enclosing capture become further operands.

    Raises:
        UnsupportedError: The body does to an operand what must not be done twice.
    """
    body, *operands = args
    before = [_state(value) for value in operands]
    region = tracer.trace_region(body, operands, f"{operator.name()}_body")
    _refuse_changes(operator, before, [_state(value) for value in operands])
    tracer.recorder.attributes.attach(region.graph_module, f"{operator.name()}_body")
    operands = [region.graph_module, *operands, *region.captured]
    node = tracer.record_call(operator, operands, kwargs, operator.name())
    return tracer.track(operator(*operands, **kwargs), node)


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
    enclosing = (*_enclosing.get(), tracer)

    def is_captured(tensor: Tensor) -> bool:
        if all(get_proxy_slot(tensor, known, None) is None for known in enclosing):
            return False
        # Before dispatch, as torch.export traces, gradients are still to come: none can be lost.
        if not mode.pre_dispatch:
            refuse_lost_gradient(tensor)
        return True

    before = [_state(value) for value in operands]
    token = _enclosing.set(enclosing)
    try:
        traced = trace_subgraph_with_torch(body)(*operands)
    finally:
        _enclosing.reset(token)
    _refuse_changes(operator, before, [_state(value) for value in operands])
    region = lift_captured(traced, is_captured)
    name = tracer.get_fresh_qualname(f"{operator.name()}_body")
    tracer.root.register_module(name, region.graph_module)
    call = (region.graph_module, *operands, *region.captured)
    proxies = tree_map(tracer.unwrap_proxy, call)
    proxy = tracer.create_proxy("call_function", operator, proxies, config, name=operator.name())
    return track_tensor_tree(operator(*call, **config), proxy, constant=None, tracer=tracer)


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


def _has_gradient(value: Any) -> bool:
    """Say whether autograd would follow `value`, backwards or forwards."""
    if not isinstance(value, Tensor):
        return False
    if value.requires_grad and torch.is_grad_enabled():
        return True
    return forward_ad.unpack_dual(value).tangent is not None


def _is_unrecorded(operator: Operator) -> bool:
    definition = operator.definition
    if definition.kind != "region" or definition.rules.keys() & {"fake", "functionalize"}:
        return False
    return current_proxy_mode() is None


def _version(value: Any) -> int:
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _state(value: Any) -> tuple[Any, ...]:
    """Return what tracing a body must leave alone, since the body then runs once more.

    The values in a fake tensor are none of it.
    """
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return ()
    version = 0 if isinstance(value, FakeTensor) else _version(value)
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
