"""Nodes, made and inserted without the graph's own checks of every argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Graph, Node
from torch.fx.immutable_collections import immutable_dict

Place = tuple[str, Node, int]
"""The place of a call that is not written unless something uses it: the name that the node will
have, the last node when the place was taken, and which of all places it is.
"""


class NodeWriter:
    """Appends calls to a graph.

    The graph's `create_node` walks through all arguments; whoever calls this has just made them.
    Names come from the graph's own namespace, so both ways may be mixed freely.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._namespace = graph._graph_namespace
        self._names = graph._graph_namespace._obj_to_name
        self._table = graph._find_nodes_lookup_table.table
        # The calls of each function, by its identity: hashing an operator runs Python code.
        self._calls: dict[int, tuple[Callable[..., Any], dict[Node, None]]] = {}
        self._insert = graph._insert
        self._used = graph._graph_namespace._used_names
        self._counts = graph._graph_namespace._base_count
        self._numbered: set[str] = set()
        self._no_keywords: dict[str, Any] = immutable_dict()
        # New nodes come before this one, which is the root unless a graph is written into.
        self._end: Node = graph._insert.__self__  # type: ignore[attr-defined]
        self._places = 0
        self._late: dict[Node, int] = {}

    def call(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        name: str,
    ) -> Node:
        """Append a call; `name` is a valid identifier that will be numbered if it is taken."""
        node = self._new(target, args, kwargs, self._unique(name))
        self._insert(node)
        return node

    def take_place(self, name: str) -> Place:
        """Take the name and the place that a call would get if it were appended now."""
        self._places += 1
        return self._unique(name), self._end._prev, self._places

    def fill_place(self, place: Place, target: Callable[..., Any], args: tuple[Any, ...]) -> Node:
        """Write a call in the place that was taken for it."""
        name, position, order = place
        node = self._new(target, args, None, name)
        while position._erased:
            position = position._prev
        while self._late.get(position._next, order) < order:
            position = position._next
        position.append(node)
        self._late[node] = order
        return node

    def _new(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        unique: str,
    ) -> Node:
        graph = self._graph
        keywords = kwargs or self._no_keywords
        node = Node(graph, unique, "call_function", target, args, keywords, None)
        self._names[node] = unique
        known = self._calls.get(id(target))
        if known is None:
            known = self._calls[id(target)] = target, self._table["call_function", target]
        known[1][node] = None
        graph._len += 1
        return node

    def _unique(self, name: str) -> str:
        """Return the next free name, as the namespace would: it skips what others have taken."""
        if name not in self._numbered:
            return self._first(name)
        counts, used = self._counts, self._used
        number = counts.get(name, 0) + 1
        while (unique := f"{name}_{number}") in used:
            number += 1
        used.add(unique)
        counts[name] = number
        return unique

    def _first(self, name: str) -> str:
        unique = self._namespace.create_name(name, None)
        if not name[-1].isdigit():
            self._numbered.add(name)
        return unique
