"""Which nodes of a graph share memory, and what a write to one of them is to another."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ._arguments import arguments_of
from ._operands import storage_of
from ._sizes import size_of

aten = torch.ops.aten


class SharedMemory:
    """The nodes of a graph by the memory of their tensors.

    The first node with some memory made it; all others are views, or writes, which give again the
    tensor that they wrote to.
    """

    def __init__(self, graph_module: GraphModule) -> None:
        sharing: dict[int, list[Node]] = defaultdict(list)
        for node in graph_module.graph.nodes:
            storage = storage_of(node.meta.get("val"))
            if storage is not None:
                sharing[storage].append(node)
        self._members = {nodes[0]: tuple(nodes) for nodes in sharing.values()}
        self._bases = {node: base for base, nodes in self._members.items() for node in nodes}
        # Kept, since the arguments of nodes change while a graph is rewritten.
        self._parents = {node: self._found_parent(node) for node in self._bases}

    def base(self, node: Node) -> Node | None:
        """Return the node that made the memory of a node's tensor; None if it has none."""
        return self._bases.get(node)

    def members(self, base: Node) -> tuple[Node, ...]:
        """Return the nodes that have the memory that a node made, in the order of the graph."""
        return self._members[base]

    def parent(self, node: Node) -> Node | None:
        """Return the node that a view was taken of, or that a write wrote to, if one is known."""
        return self._parents.get(node)

    def _found_parent(self, node: Node) -> Node | None:
        base = self._bases[node]
        inputs = (each for each in producer(node).all_input_nodes if self.base(each) is base)
        return next(inputs, None)


def producer(node: Node) -> Node:
    """Return the call that made a tensor, which may have made several."""
    first = node.args[0] if node.target is operator.getitem else node
    assert isinstance(first, Node)
    return first


def is_same_part(view: Tensor, parent: Tensor) -> bool:
    """Return whether a view reads all that its parent does, in the same way."""
    first, second = (
        (
            [size_of(each) for each in (*tensor.shape, *tensor.stride(), tensor.storage_offset())],
            (tensor.dtype, tensor.is_conj(), tensor.is_neg()),
        )
        for tensor in (view, parent)
    )
    return first == second


Call = tuple[Any, tuple[Any, ...]]
"""An operator and its arguments."""


def written_through(view: Node, parent: Node, value: Node) -> Call | None:
    """Return the call that gives what `parent` becomes when a view of it becomes `value`.

    Gradients flow through the call as autograd lets them flow through the write.

    Args:
        view: The node that takes the view.
        parent: The tensor that it is taken of, as it is before the write.
        value: The new value of the view.

    Returns:
        None if it is not known.
    """
    make = _INVERSES.get(view.target)
    return None if make is None else make(arguments_of(view), parent, value)


_Inverse = Callable[[dict[str, Any], Node, Node], Call | None]


def _in_the_same_order(_: dict[str, Any], parent: Node, value: Node) -> Call:
    return aten.reshape_as.default, (value, parent)


def _narrow(arguments: dict[str, Any], parent: Node, value: Node) -> Call | None:
    start, length = arguments["start"], arguments["length"]
    if not isinstance(start, int) or not isinstance(length, int) or start < 0:
        return None
    end = start + length
    return aten.slice_scatter.default, (parent, value, arguments["dim"], start, end)


def _permute(arguments: dict[str, Any], _: Node, value: Node) -> Call:
    count = len(arguments["dims"])
    order = [dim % count for dim in arguments["dims"]]
    return aten.permute.default, (value, [order.index(dim) for dim in range(count)])


def _scatter(target: Any, *names: str) -> _Inverse:
    def make(arguments: dict[str, Any], parent: Node, value: Node) -> Call:
        return target, (parent, value, *(arguments[name] for name in names))

    return make


def _swapped(target: Any, *names: str) -> _Inverse:
    def make(arguments: dict[str, Any], _: Node, value: Node) -> Call:
        return target, (value, *(arguments[name] for name in names))

    return make


_ORDERED = (
    aten.view.default,
    aten.reshape.default,
    aten.view_as.default,
    aten.reshape_as.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.ravel.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)

_INVERSES: dict[Any, _Inverse] = {
    **dict.fromkeys(_ORDERED, _in_the_same_order),
    aten.select.int: _scatter(aten.select_scatter.default, "dim", "index"),
    aten.slice.Tensor: _scatter(aten.slice_scatter.default, "dim", "start", "end", "step"),
    aten.narrow.default: _narrow,
    aten.diagonal.default: _scatter(aten.diagonal_scatter.default, "offset", "dim1", "dim2"),
    aten.as_strided.default: _scatter(
        aten.as_strided_scatter.default, "size", "stride", "storage_offset"
    ),
    aten.t.default: _swapped(aten.t.default),
    aten.numpy_T.default: _swapped(aten.numpy_T.default),
    aten.mT.default: _swapped(aten.mT.default),
    aten.transpose.int: _swapped(aten.transpose.int, "dim0", "dim1"),
    aten.swapaxes.default: _swapped(aten.swapaxes.default, "axis0", "axis1"),
    aten.swapdims.default: _swapped(aten.swapdims.default, "dim0", "dim1"),
    aten.movedim.int: _swapped(aten.movedim.int, "destination", "source"),
    aten.movedim.intlist: _swapped(aten.movedim.intlist, "destination", "source"),
    aten.permute.default: _permute,
}
"""How to put the new value of a view into what it is a view of."""
