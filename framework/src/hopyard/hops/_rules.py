"""What a higher-order operator does on each surface unless its author says otherwise.

Only tracers keep a region. Everything else sees through to the eager definition, which is always
right and never surprising.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .._torch.dispatch import DispatchKey, TransformType
from .._torch.proxies import ProxyTorchDispatchMode, register_fake_rule
from ..errors import OptionError, closest_match
from . import compiled
from ._autograd import record_gradient
from ._functionalize import functionalize_operator, functionalize_region
from ._operator import Operator
from ._tracing import (
    rule_for_torch,
    trace_operator,
    trace_operator_with_torch,
    trace_region,
)

SURFACES: Mapping[str, str] = {
    "autograd": "(operator, *args, **kwargs): called above autograd",
    "fake": "(*args, **kwargs): computes with fake tensors",
    "functionalize": "(context, operator, *args, **kwargs): removes mutation and views",
    "trace": "(tracer, operator, args, kwargs): records the call in Hopyard's tracer",
    "torch-trace": "(mode, operator, *args, **kwargs): records the call in torch's tracer",
    "transform": "(interpreter, *args, **kwargs): called under vmap, grad, jvp and jacrev",
    "dynamo": "(call, translator, args, kwargs): reads a call in torch.compile and strict export",
    "inductor": "(*args, **kwargs): lowers the call, with values of Inductor's",
}
"""The surfaces a definition may have rules for, and how a rule is called."""

_DEFAULTS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "region": {
        "autograd": record_gradient,
        "functionalize": functionalize_region,
        "trace": trace_region,
    },
    "operator": {
        "autograd": record_gradient,
        "functionalize": functionalize_operator,
        "trace": trace_operator,
    },
}


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
    rules = {**_DEFAULTS[definition.kind], **definition.rules}
    operator.trace_rule = rules["trace"]
    operator.py_impl(DispatchKey.CompositeExplicitAutograd)(operator.see_through)
    operator.py_impl(DispatchKey.Autograd)(partial(rules["autograd"], operator))
    operator.py_functionalize_impl(_bind_second(rules["functionalize"], operator))
    operator.py_impl(ProxyTorchDispatchMode)(_torch_rule(operator))
    register_fake_rule(
        operator, definition.rules.get("fake", operator.see_through), skip_cache=True
    )
    inline = definition.rules.get("transform", _bind_interpreter(operator.see_through))
    for transform in (TransformType.Vmap, TransformType.Grad, TransformType.Jvp):
        operator.py_impl(transform)(inline)
    compiled.install(operator)


def _torch_rule(operator: Operator) -> Callable[..., Any]:
    rule = _recording_rule(operator)
    if not operator.definition.rules.keys() & {"functionalize", "torch-trace"}:
        # Below our rule for functionalization nothing arrives that a compiler wants to see inside.
        return rule

    def trace(mode: Any, *args: Any, **kwargs: Any) -> Any:
        if not compiled.is_inlined(operator):
            return rule(mode, *args, **kwargs)
        with mode:
            return operator.see_through(*args, **kwargs)

    return trace


def _recording_rule(operator: Operator) -> Callable[..., Any]:
    definition = operator.definition
    if "torch-trace" in definition.rules:
        return _bind_second(definition.rules["torch-trace"], operator)
    if definition.kind == "region":
        return rule_for_torch(operator)
    return _bind_second(trace_operator_with_torch, operator)


def _bind_second(rule: Callable[..., Any], operator: Operator) -> Callable[..., Any]:
    return lambda first, *args, **kwargs: rule(first, operator, *args, **kwargs)


def _bind_interpreter(rule: Callable[..., Any]) -> Callable[..., Any]:
    return lambda interpreter, *args, **kwargs: rule(*args, **kwargs)
