"""Nodes, made and inserted without the graph's own checks of every argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Graph, Node
from torch.fx.immutable_collections import immutable_dict


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
        self._insert = graph._insert
        self._used = graph._graph_namespace._used_names
        self._counts = graph._graph_namespace._base_count
        self._numbered: set[str] = set()
        self._no_keywords: dict[str, Any] = immutable_dict()

    def call(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        name: str,
    ) -> Node:
        """Append a call; `name` is a valid identifier that will be numbered if it is taken."""
        graph = self._graph
        unique = self._number(name) if name in self._numbered else self._first(name)
        keywords = kwargs or self._no_keywords
        node = Node(graph, unique, "call_function", target, args, keywords, None)
        self._names[node] = unique
        self._insert(node)
        self._table["call_function", target][node] = None
        graph._len += 1
        return node

    def _first(self, name: str) -> str:
        unique = self._namespace.create_name(name, None)
        if not name[-1].isdigit():
            self._numbered.add(name)
        return unique

    def _number(self, name: str) -> str:
        """Return the next free name, as the namespace would: it skips what others have taken."""
        number = self._counts.get(name, 0) + 1
        while (unique := f"{name}_{number}") in self._used:
            number += 1
        self._used.add(unique)
        self._counts[name] = number
        return unique
