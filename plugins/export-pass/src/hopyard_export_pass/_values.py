"""What callbacks are given: handles of values, and metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import Graph, Node, Proxy

from hopyard.errors import UsageError
from hopyard.replaying import ATOMS, FakeTensor

if TYPE_CHECKING:
    from ._tracer import ExportTracer

RECOMPUTED = frozenset({"val", "tensor_meta"})
"""Keys whose values say what a node computes; a replay writes them itself."""

PROTECTED = RECOMPUTED | {"stack_trace", "nn_module_stack", "debug_handle"}
"""Keys that a pass hands on and must not set."""

active_tracer: ContextVar[ExportTracer] = ContextVar("hopyard_export_pass_tracer")
"""Records the graph that is being made."""


class NodeMetadata:
    """The metadata that an emitted node inherits; a copy of the replayed node's.

    It is copied when somebody asks for `data` or sets an entry.

    Args:
        data: The entries.
    """

    __slots__ = ("_data", "_origin")

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data: dict[str, Any] | None = dict(data)
        self._origin: dict[str, Any] | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The entries, which may be changed."""
        if self._data is None:
            assert self._origin is not None
            self._data = dict(self._origin)
        return self._data

    @data.setter
    def data(self, data: dict[str, Any]) -> None:
        self._data = data

    def is_untouched_copy_of(self, node: Node) -> bool:
        """Say whether it is what a node's metadata says, and nobody asked for all of it."""
        return self._data is None and self._origin is node.meta

    def __getitem__(self, key: str) -> Any:
        data = self._origin if self._data is None else self._data
        assert data is not None
        return data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key in PROTECTED:
            raise UsageError(
                f"a pass cannot set meta[{key!r}]",
                hint="it is computed, or handed on from the node that is replayed",
                stage="NodeMetadata",
            )
        self.data[key] = value

    def __contains__(self, key: object) -> bool:
        data = self._origin if self._data is None else self._data
        assert data is not None
        return key in data

    def __repr__(self) -> str:
        return f"NodeMetadata({self.data!r})"

    def copy(self) -> NodeMetadata:
        """Return an independent copy."""
        return NodeMetadata(self.data)


class ProxyValue:
    """A value of the graph under construction.

    Pass it on as an argument; `data` is only for looking at, for example at its shape.

    Args:
        data: The fake tensor, number or container of them that the node computes.
        proxy: The node that computes it, or a proxy of it.
    """

    __slots__ = ("_data", "_place")

    def __init__(self, data: Any, proxy: Proxy | Node) -> None:
        self._data = data
        self._place = proxy

    @property
    def data(self) -> Any:
        """What the node computes: a fake tensor, a number, or a container of them."""
        return self._data

    @data.setter
    def data(self, data: Any) -> None:
        _forget()
        self._data = data

    @property
    def proxy_or_node(self) -> Proxy | Node:
        """The node that computes the value, or a proxy of it."""
        expose(node_of(self).graph)
        return self._place

    @proxy_or_node.setter
    def proxy_or_node(self, place: Proxy | Node) -> None:
        _forget()
        self._place = place

    @property
    def node(self) -> Node:
        """The node that computes the value."""
        found = node_of(self)
        expose(found.graph)
        return found

    @property
    def proxy(self) -> Proxy:
        """A proxy of the node, for `tracer.create_proxy`.

        Raises:
            UsageError: No replay is going on.
        """
        found = self.proxy_or_node
        if isinstance(found, Proxy):
            return found
        tracer = active_tracer.get(None)
        if tracer is None:
            raise UsageError(
                f"no graph is being made that the proxy of node {found.name!r} could add to",
                hint="ask for it within a callback",
                stage="ProxyValue",
            )
        return tracer.proxy(found)

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

    def __int__(self) -> int:
        return int(self._number())

    def __float__(self) -> float:
        return float(self._number())

    def __index__(self) -> int:
        return int(self._number().__index__())

    def _number(self) -> Any:
        """Return the value, if that is the same whenever the program runs."""
        if isinstance(self.data, (SymInt, SymFloat, SymBool)):
            raise UsageError(
                f"the value of node {self.node.name!r} is {self.data}, which is known only when "
                "the program runs",
                hint="pass the handle itself on as an argument",
                stage="ProxyValue",
            )
        return self.data

    def __repr__(self) -> str:
        return f"ProxyValue({self.node.name}: {self.data!r})"


def node_of(handle: ProxyValue) -> Node:
    """Return the node of a handle without noting that somebody has it."""
    place = handle._place
    return place if type(place) is Node else place.node  # type: ignore[union-attr]


_EXPOSED: Final = "_hopyard_exposed"


def expose(graph: Graph) -> None:
    """Note that a pass has been given nodes of a graph under construction, which it may change."""
    graph.__dict__[_EXPOSED] = True


def end_exposure(graph: Graph) -> bool:
    """Say whether a pass has been given nodes of a graph until now."""
    return bool(graph.__dict__.pop(_EXPOSED, False))


def _forget() -> None:
    """Let what follows be computed anew, since it may follow from a handle that is changed."""
    tracer = active_tracer.get(None)
    if tracer is not None and tracer.replay is not None:
        tracer.replay.forget()


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Return `value` with `function` applied to the leaves of lists, tuples, dicts and slices."""
    if isinstance(value, (tuple, list)):
        items = [
            function(item) if type(item) in _LEAVES else map_leaves(function, item)
            for item in value
        ]
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if type(value) in _LEAVES:
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_leaves(function, item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(
            *[map_leaves(function, item) for item in (value.start, value.stop, value.step)]
        )
    return function(value)


_LEAVES: Final = ATOMS | {FakeTensor, Node, ProxyValue}
"""Types that are known to be no containers, which is told faster than that others are not."""


def leaves_of(value: Any) -> list[Any]:
    """Return the leaves that :func:`map_leaves` visits."""
    found: list[Any] = []
    map_leaves(found.append, value)
    return found


def data_of(value: Any) -> Any:
    """Return what handles in `value` stand for, and anything else as it is."""
    return map_leaves(lambda leaf: leaf._data if isinstance(leaf, ProxyValue) else leaf, value)
