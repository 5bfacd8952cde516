"""A bound higher-order operator: the object that programs call and graphs hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from hopyard_hookspecs import Hop

from .._torch.dispatch import (
    DispatchKey,
    HigherOrderOperator,
    current_dispatch_mode,
    current_transform,
    dispatch_mode_count,
)
from .._torch.fake import FakeTensor
from .._torch.predispatch import is_dispatch_key_included
from ..errors import UsageError

_PLAIN_TENSORS = (Tensor, Parameter)


class Operator(HigherOrderOperator):
    """The operator of a :class:`hopyard_hookspecs.Hop`.

    With no mode, transform or tensor subclass in play a call *is* a call of the eager definition,
    so that gradients reach whatever the body captures. Otherwise the call is dispatched to the rule
    of the surface; what has no rule, such as a dispatch mode that nobody has heard of, sees the
    operators inside the body.

    Attributes:
        definition: What the operator was made from.
        trace_rule: How Hopyard's tracer records a call.
    """

    def __init__(self, definition: Hop) -> None:
        super().__init__(definition.name)
        self.definition = definition
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
        if is_eager(args):
            return self.definition.eager(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def dispatch(self, /, dispatch_key: DispatchKey, *args: Any, **kwargs: Any) -> Any:
        """Find the rule for a call; called by torch."""
        if dispatch_key == DispatchKey.Python and self._is_for_strangers(args, kwargs):
            return self.definition.eager(*args, **kwargs)
        return super().dispatch(dispatch_key, *args, **kwargs)

    def _is_for_strangers(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        mode = current_dispatch_mode()
        if mode is not None:
            if mode.supports_higher_order_operators or mode.is_infra_mode():
                return False
            return type(mode) not in self.python_key_table
        subclasses = {type(tensor) for tensor in self._get_overloaded_args(args, dict(kwargs))}
        return not subclasses <= {*self.python_key_table, FakeTensor}

    def __reduce__(self) -> tuple[Callable[[str], Operator], tuple[str]]:
        return _by_name, (self.name(),)


def _by_name(name: str) -> Operator:
    from ._registry import bound

    return bound(name)


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
