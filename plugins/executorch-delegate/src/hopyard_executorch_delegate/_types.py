"""Types of values: what a partition computes, and whether a backend keeps to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node


@dataclass(frozen=True, slots=True)
class ValueType:
    """The type of a tensor, or of another value.

    Attributes:
        kind: The Python type's name; `"Tensor"` for every tensor.
        shape: The sizes, if it is a tensor.
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
            return cls("Tensor", tuple(value.shape), value.dtype, value.device)
        return cls(type(value).__name__)

    def accepts(self, other: ValueType) -> bool:
        """Say whether a value of the `other` type may stand where this one is expected."""
        return self in (UNKNOWN, other)

    def __str__(self) -> str:
        if self.dtype is None:
            return self.kind
        shape = ", ".join(str(size) for size in self.shape)
        return f"{str(self.dtype).removeprefix('torch.')}[{shape}] on {self.device}"


UNKNOWN = ValueType("a value of unknown type")
"""The type of what a graph says nothing about."""


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
