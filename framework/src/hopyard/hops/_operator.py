"""A bound higher-order operator: the object that programs call and graphs hold."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import handle_torch_function, has_torch_function

from hopyard_hookspecs import Hop
from hopyard_hookspecs.hops import call_body

from .._torch.dispatch import (
    DispatchKey,
    HigherOrderOperator,
    current_dispatch_mode,
    current_transform,
    dispatch_keys_of,
    dispatch_mode_count,
    is_dispatch_key_excluded,
    keep_from_dynamo,
)
from .._torch.fake import FakeTensor
from .._torch.predispatch import is_dispatch_key_included
from .._torch.proxies import current_proxy_mode
from .._torch.pytree import tree_leaves
from ..errors import UnsupportedError, UsageError
from ..tracing import current_location
from . import _function_modes as function_modes
from ._captures import name_of
from ._provider import provider_of
from ._returns import KEYWORD, call_as_recorded
from ._schema import schema_of
from .compiled._inductor import is_inlined

_PLAIN_TENSORS = (Tensor, Parameter)


class Operator(HigherOrderOperator):
    """The operator of a :class:`hopyard_hookspecs.Hop`.

    With no mode, transform or tensor subclass in play a call *is* a call of the eager definition,
    so that gradients reach whatever the body captures. Otherwise the call is dispatched to the rule
    of the surface; what has no rule, such as a dispatch mode that nobody has heard of, sees the
    operators inside the body.

    Attributes:
        definition: What the operator was made from.
        runs_its_body: Whether a call is nothing but a call of the body on the operands.
        takes_captured: Whether the eager definition takes any number of operands, so that what a
            body captures may be among them.
        trace_rule: How Hopyard's tracer records a call.
    """

    def __init__(self, definition: Hop) -> None:
        # A cache of compiled code knows a call by its operands, bodies as text among them.
        means_its_body = definition.eager is call_body and not definition.rules
        super().__init__(definition.name, cacheable=means_its_body)
        self.definition = definition
        replaced = definition.rules.keys() & {"fake", "functionalize"}
        self.runs_its_body = definition.eager is call_body and not replaced
        self.takes_captured = definition.kind == "region" and _takes_any(definition.eager)
        self.trace_rule: Callable[..., Any] | None = None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Apply the operator.

        Args:
            *args: `(body, *operands)` for a region, `(*operands)` for an operator. Tensors must be
                operands themselves or items of a list or tuple.
            **kwargs: Configuration: plain values, no tensors.
        """
        if self.definition.kind == "region" and not (args and callable(args[0])):
            raise UsageError(
                f"{self.name()} takes a callable body first",
                hint=f"write {self.name()}(body, *operands)",
                stage=self.name(),
            )
        eager = is_eager(args)
        if kwargs and KEYWORD in kwargs:
            return call_as_recorded(self, args, kwargs, eager=eager)
        if eager:
            return self.definition.eager(*args, **kwargs)
        # What torch's class does, in one frame: its tracer walks the stack for each operator.
        leaves = tree_leaves((args, kwargs))
        if has_torch_function(leaves):
            if not function_modes.are_new():
                return handle_torch_function(self, leaves, *args, **kwargs)
            with function_modes.passing():
                return handle_torch_function(self, leaves, *args, **kwargs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        key = dispatch_keys_of(tensors, self.non_fallthrough_keys).highestPriorityTypeId()
        if key == DispatchKey.Python:
            if not is_dispatch_key_excluded(DispatchKey.AutogradFunctionality):
                # No operand knows autograd; what the body captures may.
                key = DispatchKey.AutogradCPU
            elif self._is_for_strangers(args, kwargs):
                return self.see_through(*args, **kwargs)
        if not function_modes.are_passed():
            return self.dispatch(key, *args, **kwargs)
        with function_modes.hiding():
            return self.dispatch(key, *args, **kwargs)

    def see_through(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the eager definition, so that whoever is active sees its operators."""
        with function_modes.shown():
            return self.definition.eager(*args, **kwargs)

    def is_recorded(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Say whether a tracer would record this call; if not, nobody misses the region.

        A rule of the author's for fake or functional tensors has to be asked all the same.
        """
        if is_inlined(self):
            return False
        definition = self.definition
        if definition.kind != "region" or definition.rules.keys() & {"fake", "functionalize"}:
            return not self._is_for_strangers(args, kwargs)
        return current_proxy_mode() is not None and not self._is_for_strangers(args, kwargs)

    def check_captures(self, body: Callable[..., Any], captured: Sequence[Any]) -> None:
        """Refuse what a body captures if it cannot become an operand.

        Raises:
            UnsupportedError: The eager definition takes operands of a fixed number.
        """
        if not captured or self.takes_captured:
            return
        name = name_of(captured[0], body)
        raise self.refusal(
            f"captures {repr(name) if name else 'a value'}, which would become a further operand, "
            "and the operator takes operands of a fixed number",
            "pass it as an operand, or define the operator as (body, *operands, **config)",
        )

    def _is_for_strangers(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        mode = current_dispatch_mode()
        if mode is not None:
            if mode.supports_higher_order_operators or mode.is_infra_mode():
                return False
            return type(mode) not in self.python_key_table
        subclasses = {type(tensor) for tensor in self._get_overloaded_args(args, dict(kwargs))}
        return not subclasses <= {*self.python_key_table, FakeTensor}

    def gen_schema(self, *args: Any, **kwargs: Any) -> Any:
        """Return torch's schema of a call whose body is a graph; called by torch's passes."""
        return schema_of(self, args, kwargs)

    def refusal(self, what: str, hint: str) -> UnsupportedError:
        """Return the error for a call that does something which it must not."""
        return UnsupportedError(
            f"a call of {self.name()} {what}",
            hint=hint,
            plugin=provider_of(self.definition),
            stage=self.name(),
            location=current_location(),
        )

    def __reduce__(self) -> tuple[Callable[[str], Operator], tuple[str]]:
        return _by_name, (self.name(),)


# Where Dynamo leaves a function alone, it would read the functions that this calls one by one.
keep_from_dynamo(Operator.__call__)


def _by_name(name: str) -> Operator:
    from ._registry import bound

    return bound(name)


def _takes_any(eager: Callable[..., Any]) -> bool:
    parameters = inspect.signature(eager).parameters.values()
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)


def is_traced() -> bool:
    """Say whether a tracer, Hopyard's or torch's, records what is called on this thread."""
    return current_proxy_mode() is not None


def is_eager(args: Sequence[Any]) -> bool:
    """Say whether a call with these operands is plain eager execution.

    It is not if a dispatch mode, above autograd or below, a functorch transform, a compiler or a
    tensor subclass would see it. A function mode, such as a default device, sees the functions that
    the definition calls.
    """
    if dispatch_mode_count() or current_transform() is not None:
        return False
    if is_dispatch_key_included(DispatchKey.PreDispatch):
        return False
    if torch.compiler.is_dynamo_compiling():
        return False
    for arg in args:
        items = arg if isinstance(arg, (list, tuple)) else (arg,)
        for item in items:
            if type(item) not in _PLAIN_TENSORS and hasattr(type(item), "__torch_function__"):
                return False
    return True
