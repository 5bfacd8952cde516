"""What callbacks are given: handles of values, and metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.fx import Node

from hopyard.errors import UsageError

RECOMPUTED = frozenset({"val", "tensor_meta"})
"""Keys whose values say what a node computes; a replay writes them itself."""

PROTECTED = RECOMPUTED | {"stack_trace", "nn_module_stack", "debug_handle"}
"""Keys that a pass hands on and must not set."""


class NodeMetadata:
    """The metadata that an emitted node inherits; a copy of the replayed node's.

    Attributes:
        data: The entries.
    """

    __slots__ = ("data",)

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data: dict[str, Any] = dict(data)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in PROTECTED:
            raise UsageError(
                f"a pass cannot set meta[{key!r}]",
                hint="it is computed, or handed on from the node that is replayed",
                stage="NodeMetadata",
            )
        self.data[key] = value

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __repr__(self) -> str:
        return f"NodeMetadata({self.data!r})"

    def copy(self) -> NodeMetadata:
        """Return an independent copy."""
        return NodeMetadata(self.data)


class ProxyValue:
    """A value of the graph under construction.

    Pass it on as an argument; `data` is only for looking at, for example at its shape.

    Attributes:
        data: The fake tensor, number or container of them that the node computes.
        node: The node that computes it.
    """

    __slots__ = ("data", "node")

    def __init__(self, data: Any, node: Node) -> None:
        self.data = data
        self.node = node

    @property
    def meta(self) -> dict[str, Any]:
        """The metadata of the node."""
        return self.node.meta

    def is_tensor(self) -> bool:
        """Say whether the value is a tensor."""
        return isinstance(self.data, Tensor)

    def to_tensor(self) -> Tensor:
        """Return the fake tensor.

        Raises:
            UsageError: The value is no tensor.
        """
        if not isinstance(self.data, Tensor):
            raise UsageError(
                f"the value of node {self.node.name!r} is a {type(self.data).__name__}, no tensor",
                hint="ask is_tensor() first",
                stage="ProxyValue",
            )
        return self.data

    def __iter__(self) -> Iterator[Any]:
        yield from self.data

    def __bool__(self) -> bool:
        return bool(self.data)

    def __repr__(self) -> str:
        return f"ProxyValue({self.node.name}: {self.data!r})"


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Return `value` with `function` applied to the leaves of lists, tuples, dicts and slices."""
    if isinstance(value, tuple):
        items = [map_leaves(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [map_leaves(function, item) for item in value]
    if isinstance(value, Mapping):
        return {key: map_leaves(function, item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(
            *[map_leaves(function, item) for item in (value.start, value.stop, value.step)]
        )
    return function(value)


def leaves_of(value: Any) -> list[Any]:
    """Return the leaves that :func:`map_leaves` visits."""
    found: list[Any] = []
    map_leaves(found.append, value)
    return found
