"""Metadata of nodes that passes make by hand."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from hopyard._torch.pytree import tree_leaves, tree_map_only
from hopyard.errors import PassError
from hopyard.replaying import Computation, describe_value
from hopyard.tracing import fake_mode_for, node_location
from hopyard.verify._graphs import attribute
from hopyard.verify._known import described


def refresh_values(graph_module: GraphModule, nodes: Collection[Node]) -> None:
    """Compute what some nodes of a graph compute, and what follows from that further on.

    `meta["val"]`, and `meta["tensor_meta"]` where there is one, are written anew where the value is
    of another type, and kept where it is of the same: nodes that only use such values are left
    alone. Bodies of regions are not entered.

    Args:
        graph_module: The graph; nodes that are not named have right metadata.
        nodes: The nodes that were made or changed.

    Raises:
        PassError: A node cannot be computed from its operands; the error names it.
    """
    if nodes:
        _Refresh(graph_module).run(nodes)


class _Refresh:
    def __init__(self, graph_module: GraphModule) -> None:
        self._graph_module = graph_module
        values = [node.meta.get("val") for node in graph_module.graph.nodes]
        self._mode = fake_mode_for(leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
        self._computation = Computation(self._mode)

    def run(self, nodes: Collection[Node]) -> None:
        changed: set[Node] = set()
        with self._computation.surroundings():
            for node in self._graph_module.graph.nodes:
                is_meant = node in nodes
                if not is_meant and changed.isdisjoint(node.all_input_nodes):
                    continue
                if self._refresh(node):
                    changed.add(node)

    def _refresh(self, node: Node) -> bool:
        """Compute a node and say whether its value is of another type than its metadata said."""
        if node.op not in ("call_function", "get_attr"):
            return False
        value = self._computed(node)
        if "val" in node.meta and described(node.meta["val"]) == described(value):
            return False
        node.meta.pop("unbacked_bindings", None)
        if isinstance(value, torch.nn.Module):
            return False
        bindings = self._computation.bindings(value)
        if bindings:
            node.meta["unbacked_bindings"] = bindings
        describe_value(node, value, self._mode)
        return True

    def _computed(self, node: Node) -> Any:
        if node.op == "get_attr":
            value = attribute(self._graph_module, str(node.target))
            is_tensor = isinstance(value, Tensor)
            return self._mode.from_tensor(value, static_shapes=True) if is_tensor else value
        target: Any = node.target
        args, kwargs = map_arg((node.args, node.kwargs), self._operand)
        try:
            return self._computation.compute(target, args, kwargs)
        except Exception as cause:
            raise PassError(
                f"node {node.name!r} ({node.target}) cannot be computed from its operands: {cause}",
                node=node.name,
                location=node_location(node),
            ) from cause

    def _operand(self, node: Node) -> Any:
        if node.op == "get_attr" and "val" not in node.meta:
            return attribute(self._graph_module, str(node.target))
        return tree_map_only(Tensor, self._computation.alias, node.meta.get("val"))
