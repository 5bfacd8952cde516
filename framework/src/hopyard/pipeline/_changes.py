"""What a pass did to a graph, found by comparing it with the graph before."""

from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard.verify import walk_graphs
from hopyard.verify._graphs import attribute, same_arguments


def first_change(before: GraphModule, after: GraphModule) -> str:
    """Return where two graphs differ in what they compute, or "" if they do not.

    Names and metadata do not count.
    """
    graphs_before, graphs_after = dict(walk_graphs(before)), dict(walk_graphs(after))
    if graphs_before.keys() != graphs_after.keys():
        return f"its regions are {sorted(filter(None, graphs_after))}"
    for path, graph_module in graphs_after.items():
        changed = _first_change(graphs_before[path], graph_module)
        if changed:
            return f"{changed} of region {path!r}" if path else changed
    return ""


def _first_change(before: GraphModule, after: GraphModule) -> str:
    nodes_before, nodes_after = list(before.graph.nodes), list(after.graph.nodes)
    if len(nodes_before) != len(nodes_after):
        return f"there are {len(nodes_after)} nodes instead of {len(nodes_before)}"
    earlier: dict[Node, Node] = dict(zip(nodes_after, nodes_before, strict=True))

    def corresponds(node: Node, node_before: Node) -> bool:
        return earlier.get(node) is node_before

    for node, node_before in earlier.items():
        same = (
            node.op == node_before.op
            and _target(after, node) == _target(before, node_before)
            and same_arguments(node.args, node_before.args, corresponds)
            and same_arguments(node.kwargs, node_before.kwargs, corresponds)
        )
        if not same:
            return f"node {node.name!r} differs"
    return ""


def _target(graph_module: GraphModule, node: Node) -> object:
    """Return what identifies what a node does, apart from its arguments."""
    if node.op in ("placeholder", "output"):
        return None
    if node.op != "get_attr":
        return node.target
    value = attribute(graph_module, str(node.target))
    return id(value) if isinstance(value, Tensor) else node.target
