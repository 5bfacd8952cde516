"""Functionalization: tensors whose views and writes are undone as they happen."""

from __future__ import annotations

from torch import _C
from torch import Tensor as _Tensor
from torch import _from_functional_tensor as _value_of
from torch import _is_functional_tensor as _is_wrapped
from torch._subclasses.functional_tensor import FunctionalTensor as FunctionalTensor
from torch._subclasses.functional_tensor import FunctionalTensorMode as FunctionalTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize as functionalized

FUNCTIONAL_SLOT = _C._TorchDispatchModeKey.FUNCTIONAL
"""The slot of the mode stack that holds the mode of functionalization."""


def functional_value(tensor: _Tensor) -> _Tensor:
    """Return the plain tensor in a functional one, writes that are pending not done; or itself."""
    if isinstance(tensor, FunctionalTensor):
        tensor = tensor.elem
    return _value_of(tensor) if _is_wrapped(tensor) else tensor


__all__ = [
    "FUNCTIONAL_SLOT",
    "FunctionalTensor",
    "FunctionalTensorMode",
    "functional_value",
    "functionalized",
]
