"""Functionalization: tensors whose views and writes are undone as they happen."""

from __future__ import annotations

from typing import Any as _Any

from torch import _C
from torch import Tensor as _Tensor
from torch import _from_functional_tensor as _value_of
from torch import _is_functional_tensor as _is_wrapped
from torch._functorch.pyfunctorch import (
    retrieve_current_functorch_interpreter as _current_interpreter,
)
from torch._subclasses.functional_tensor import FunctionalTensor as FunctionalTensor
from torch._subclasses.functional_tensor import FunctionalTensorMode as FunctionalTensorMode
from torch._subclasses.functional_tensor import FunctorchFunctionalizeAPI as _Functionalize
from torch._subclasses.functional_tensor import dispatch_functionalize as functionalized

FUNCTIONAL_SLOT = _C._TorchDispatchModeKey.FUNCTIONAL
"""The slot of the mode stack that holds the mode of functionalization."""


def functional_value(tensor: _Tensor) -> _Tensor:
    """Return the plain tensor in a functional one, writes that are pending not done; or itself."""
    if isinstance(tensor, FunctionalTensor):
        tensor = tensor.elem
    return _value_of(tensor) if _is_wrapped(tensor) else tensor


def call_below(function: _Any, *args: _Any, **kwargs: _Any) -> _Any:
    """Call a function within `torch.func.functionalize` with the values of functional tensors."""
    interpreter: _Any = _current_interpreter()
    context: _Any = _Functionalize(interpreter)
    args, kwargs = context.unwrap_tensors((args, kwargs))
    with context.redispatch_to_next():
        result = function(*args, **kwargs)
    return context.wrap_tensors(result)


__all__ = [
    "FUNCTIONAL_SLOT",
    "FunctionalTensor",
    "FunctionalTensorMode",
    "call_below",
    "functional_value",
    "functionalized",
]
