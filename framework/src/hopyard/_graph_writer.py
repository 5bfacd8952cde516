"""Graphs written node by node, without fx's checks of every argument and name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch.fx import Graph, Node
from torch.fx.immutable_collections import immutable_dict

from ._torch.graphs import NodeBase, map_nodes

_new = Node.__new__
_initialize = NodeBase.__init__
_NO_KEYWORDS: Final[dict[str, Any]] = immutable_dict()


class GraphWriter:
    """Writes a graph that has nodes of another one, or counterparts of them.

    Names of the other graph are all taken: a node is given one of them only by whoever says so.

    Args:
        source: The other graph; its way of generating code is taken over.

    Attributes:
        graph: The graph under construction. fx's own ways to add nodes work as well.
    """

    __slots__ = ("_insert", "_names", "_rows", "_table", "_targets", "graph")

    def __init__(self, source: Graph) -> None:
        graph = self.graph = Graph()
        graph.set_codegen(source._codegen)
        namespace = graph._graph_namespace
        namespace._used_names.update([node.name for node in source.nodes])
        self._names = namespace._obj_to_name
        self._table = graph._find_nodes_lookup_table.table
        # The rows of the table by operation or, for calls, by the identity of their targets, which
        # are kept alive: to hash an operator takes longer.
        self._rows: dict[int | str, dict[Node, None]] = {}
        self._targets: list[Any] = []
        self._insert = graph._root._prepend

    def append(
        self,
        name: str,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        type_expr: Any = None,
    ) -> Node:
        """Append a node under a name that no other node of this graph has.

        The operation and the target must go together. Measured by `make bench-passes`.
        """
        graph = self.graph
        # What Node's constructor does after its checks.
        node: Node = _new(Node)
        _initialize(node, graph, name, op, target, type_expr)
        node._update_args_kwargs(args, kwargs or _NO_KEYWORDS)
        self._names[node] = name
        insert = self._insert
        insert(node)
        row = self._rows.get(id(target) if op == "call_function" else op)
        if row is None:
            row = self._row(op, target)
        row[node] = None
        graph._len += 1
        return node

    def copy(self, node: Node, find: Callable[[Node], Node]) -> Node:
        """Append a copy of a node of the other graph, with its name and its metadata.

        Args:
            node: The node, whose name no node of this graph has.
            find: Returns what stands for an operand of it.
        """
        args, keywords = node._args, node._kwargs
        copy = self.append(
            node.name,
            node.op,
            node.target,
            map_nodes(args, find) if args else args,
            map_nodes(keywords, find) if keywords else keywords,
            node.type,
        )
        copy.meta.update(node.meta)
        return copy

    def fresh_name(self, base: str) -> str:
        """Return a name that is taken from now on."""
        graph = self.graph
        return str(graph._graph_namespace.create_name(graph._target_to_str(base), None))

    def _row(self, op: str, target: Any) -> dict[Node, None]:
        """Return the row of the look-up table, and remember it."""
        if op != "call_function":
            row = self._rows[op] = self._table[op, None]
        else:
            row = self._rows[id(target)] = self._table[op, target]
            self._targets.append(target)
        return row
