"""Values that were computed before: an operator on like operands has a like result."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hopyard._torch.dispatch import OpOverload

_NAMESPACES = frozenset({"aten", "prims"})
_UNLIKE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class KnownValues:
    """What operators were found to compute, by what their operands are.

    Only results that follow from shapes, strides, types and devices of operands are kept: those of
    torch's own operators that write to no operand and do not depend on data. Symbolic sizes are
    alike if they are one expression, so all graphs must share their symbols.
    """

    def __init__(self) -> None:
        self._results: dict[Hashable, Any] = {}
        self._suitable: dict[object, bool] = {}

    def key(self, node: Node, value_of: Callable[[Node], Any]) -> Hashable | None:
        """Return what the result of a node depends on, or None if it must be computed.

        Args:
            node: A call.
            value_of: Returns the value of an operand.
        """
        target: Any = node.target
        suitable = self._suitable.get(target)
        if suitable is None:
            suitable = self._suitable[target] = _is_suitable(target)
        if not suitable:
            return None
        return (target, _operands(node.args, value_of), _operands(node.kwargs, value_of))

    def find(self, key: Hashable) -> Any:
        """Return the value kept under a key, or None."""
        return self._results.get(key)

    def keep(self, key: Hashable, value: Any) -> None:
        """Keep a value."""
        self._results[key] = value


def described(value: Any) -> Hashable:
    """Return what metadata claims of a value, in a form that can be compared."""
    if isinstance(value, Tensor):
        stride = tuple(map(_size, value.stride())) if value.layout == torch.strided else None
        return (
            tuple(map(_size, value.shape)),
            stride,
            value.dtype,
            value.device,
            value.layout,
            value.is_conj(),
            value.is_neg(),
        )
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *map(described, value))
    # 1, 1.0 and True are equal in Python and different to an operator; nan is unlike itself.
    return (type(value).__name__, repr(value))


def _operands(argument: Any, value_of: Callable[[Node], Any]) -> Hashable:
    if isinstance(argument, Node):
        return ("node", described(value_of(argument)))
    if isinstance(argument, (list, tuple)):
        return tuple([_operands(item, value_of) for item in argument])
    if isinstance(argument, Mapping):
        return tuple([(key, _operands(argument[key], value_of)) for key in argument])
    return (type(argument).__name__, repr(argument))


def _size(size: Any) -> Hashable:
    return size if type(size) is int else repr(size)


def _is_suitable(target: Any) -> bool:
    return (
        isinstance(target, OpOverload)
        and target.namespace in _NAMESPACES
        and not target._schema.is_mutable
        and not any(tag in target.tags for tag in _UNLIKE)
    )
