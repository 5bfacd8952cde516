"""Types of values: what a partition computes, and whether a backend keeps to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import GraphModule, Node

_PLAIN_NAMES = {SymInt: "int", SymFloat: "float", SymBool: "bool"}


@dataclass(frozen=True, slots=True)
class ValueType:
    """The type of a tensor, or of another value.

    Attributes:
        kind: The Python type's name; `"Tensor"` for every tensor.
        shape: The sizes, if it is a tensor; those that differ from call to call are expressions.
        dtype: The data type, if it is a tensor.
        device: The device, if it is a tensor.
    """

    kind: str
    shape: tuple[Any, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None

    @classmethod
    def of(cls, value: Any) -> ValueType:
        """Return the type of a value, fake or real."""
        if isinstance(value, Tensor):
            return cls("Tensor", tuple(map(_size, value.shape)), value.dtype, value.device)
        return cls(_PLAIN_NAMES.get(type(value), type(value).__name__))

    def accepts(self, other: ValueType) -> bool:
        """Say whether a value of the `other` type may stand where this one is expected.

        A size that is an expression stands for any.
        """
        if self == UNKNOWN:
            return True
        return (
            (self.kind, self.dtype, self.device) == (other.kind, other.dtype, other.device)
            and len(self.shape) == len(other.shape)
            and all(map(_fits, self.shape, other.shape))
        )

    def at(self, bindings: Mapping[sympy.Symbol, int]) -> ValueType:
        """Return this type with sizes for its symbols."""
        return dataclasses.replace(self, shape=tuple(_bound(each, bindings) for each in self.shape))

    def __str__(self) -> str:
        if self.dtype is None:
            return self.kind
        shape = ", ".join(str(size) for size in self.shape)
        return f"{str(self.dtype).removeprefix('torch.')}[{shape}] on {self.device}"


UNKNOWN = ValueType("a value of unknown type")
"""The type of what a graph says nothing about."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a partition takes and computes.

    Attributes:
        inputs: The types of its operands.
        outputs: The types of what it returns.
        sizes: For each symbol of a size, where a call tells it: operand and dimension, or operand
            and None if the operand is the number itself.
    """

    inputs: tuple[ValueType, ...]
    outputs: tuple[ValueType, ...]
    sizes: Mapping[sympy.Symbol, tuple[int, int | None]]

    @classmethod
    def of(cls, graph_module: GraphModule) -> Signature:
        """Return what a graph says of itself."""
        inputs, outputs = input_types(graph_module), output_types(graph_module)
        if not any(isinstance(size, sympy.Basic) for each in outputs for size in each.shape):
            return cls(inputs, outputs, {})
        sizes: dict[sympy.Symbol, tuple[int, int | None]] = {}
        for index, node in enumerate(graph_module.graph.find_nodes(op="placeholder")):
            value = node.meta.get("val")
            if isinstance(value, SymInt) and value.node.expr.is_Symbol:
                sizes.setdefault(value.node.expr, (index, None))
            for dim, size in enumerate(inputs[index].shape):
                if isinstance(size, sympy.Symbol):
                    sizes.setdefault(size, (index, dim))
        return cls(inputs, outputs, sizes)

    def outputs_for(self, operands: Sequence[Any]) -> tuple[ValueType, ...]:
        """Return the types of what a call with these operands returns."""
        if not self.sizes or len(operands) != len(self.inputs):
            return self.outputs
        bindings = {}
        for symbol, (index, dim) in self.sizes.items():
            operand = operands[index]
            if dim is None:
                bindings[symbol] = operand
            elif isinstance(operand, Tensor) and operand.dim() > dim:
                bindings[symbol] = operand.shape[dim]
        return tuple(each.at(bindings) for each in self.outputs)


def _size(size: Any) -> Any:
    if not isinstance(size, SymInt):
        return size
    expression = size.node.expr
    return int(expression) if expression.is_number else expression


def _bound(size: Any, bindings: Mapping[sympy.Symbol, int]) -> Any:
    if not isinstance(size, sympy.Basic):
        return size
    found = sympy.sympify(size.xreplace(bindings))
    return int(found) if found.is_number else found


def _fits(expected: Any, found: Any) -> bool:
    return isinstance(expected, sympy.Basic) or bool(expected == found)


def all_accept(expected: Sequence[ValueType], found: Sequence[ValueType]) -> bool:
    """Say whether as many values were found as expected, of the types expected."""
    if len(expected) != len(found):
        return False
    return all(one.accepts(other) for one, other in zip(expected, found, strict=True))


def described(types: Sequence[ValueType]) -> str:
    """Return a list of types as people write it."""
    return f"({', '.join(map(str, types))})"


def input_types(graph_module: GraphModule) -> tuple[ValueType, ...]:
    """Return the types of a graph's inputs."""
    nodes = graph_module.graph.find_nodes(op="placeholder")
    return tuple(map(_type, nodes))


def output_types(graph_module: GraphModule) -> tuple[ValueType, ...]:
    """Return the types of what a graph returns."""
    returned = graph_module.graph.output_node().args[0]
    values = returned if isinstance(returned, (tuple, list)) else (returned,)
    return tuple(map(_type, values))


def _type(returned: Any) -> ValueType:
    if not isinstance(returned, Node):
        return ValueType.of(returned)
    return ValueType.of(returned.meta["val"]) if "val" in returned.meta else UNKNOWN
