"""What an operator that is made of others calls."""

from __future__ import annotations

from typing import Any

import torch

from .._torch.dispatch import OpOverload, TorchDispatchMode
from .._torch.pytree import tree_leaves, tree_map
from ._calls import Call
from ._formulas import FORMULA_ERRORS
from ._values import TensorSpec, specified


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        operands, options = specified((tuple(args), dict(kwargs or {})))
        result = function(*args, **(kwargs or {}))
        self.calls.append(Call(function, operands, options, specified(result)))
        return result


def decomposed(call: Call) -> list[Call] | None:
    """Return the calls that an operator decomposes into on tensors without data.

    None if it is no such operator, or if that depends on sizes that are not known.
    """
    target = call.target
    # The dispatcher does not know of the operators that read a tensor's attributes.
    if not isinstance(target, OpOverload) or target.namespace == "prim":
        return None
    if not target._can_decompose():
        return None
    leaves = tree_leaves((call.args, dict(call.kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, TensorSpec)]
    if any(_is_unknown(tensor) for tensor in tensors):
        return None
    args, kwargs = tree_map(_without_data, (call.args, dict(call.kwargs)))
    recording = _Recording()
    try:
        with torch.no_grad(), recording:
            target(*args, **kwargs)
    except FORMULA_ERRORS:
        # Not every decomposition runs without data; the caller says that there is no formula.
        return None
    # Some say that they decompose and call themselves.
    return None if any(each.target is target for each in recording.calls) else recording.calls


def _is_unknown(tensor: TensorSpec) -> bool:
    sizes = (*tensor.shape, *(tensor.strides or ("",)))
    return not all(isinstance(size, int) for size in sizes)


def _without_data(value: Any) -> Any:
    if isinstance(value, TensorSpec) and value.strides is not None:
        return torch.empty_strided(value.shape, value.strides, dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value
