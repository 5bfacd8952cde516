"""Copies of graphs that share tensors."""

from __future__ import annotations

from typing import Any

from torch.fx import Graph, GraphModule, Node
from torch.nn import Module

from ._torch.graphs import LazyGraphModule


def copy_graph_module(graph_module: GraphModule) -> GraphModule:
    """Return a copy whose graph, and the graphs of the regions in it, can be edited freely.

    Node names and metadata are kept; metadata dictionaries are copied one level deep. A region that
    stands under several names is one region in the copy as well. Tensors and modules that are no
    graphs are shared, never copied.
    """
    return _copy(graph_module, {})


def _copy(graph_module: GraphModule, copied: dict[int, GraphModule]) -> GraphModule:
    graph = _copy_graph(graph_module.graph)
    root = _shallow_root(graph_module, copied)
    # A copy of a graph whose code is generated when it is first needed is such a graph.
    kind = LazyGraphModule if isinstance(graph_module, LazyGraphModule) else GraphModule
    result = kind(root, graph, type(graph_module).__name__)
    result.meta = dict(graph_module.meta)
    return result


def _copy_graph(source: Graph) -> Graph:
    graph = Graph()
    copies: dict[Node, Node] = {}
    output = graph.graph_copy(source, copies)
    copies[source.output_node()] = graph.output(output, type_expr=source.output_node().type)
    for original, copy in copies.items():
        # graph_copy gives nodes fresh names where the namespace has seen a base name before.
        copy.name = original.name
        graph._graph_namespace._rename_object(copy, original.name)
        copy.meta = dict(original.meta)
        if original.op == "placeholder":
            copy.target = original.target
    graph.set_codegen(source._codegen)
    return graph


def _shallow_root(graph_module: GraphModule, copied: dict[int, GraphModule]) -> Module:
    """Return a module with what the graph reads, under the same dotted names."""
    root = Module()
    for node in graph_module.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            value = _attribute(graph_module, str(node.target))
            if isinstance(value, GraphModule):
                if id(value) not in copied:
                    copied[id(value)] = _copy(value, copied)
                value = copied[id(value)]
            _assign(root, str(node.target), value)
    return root


def _attribute(module: Module, target: str) -> Any:
    value: Any = module
    for name in target.split("."):
        value = getattr(value, name)
    return value


def _assign(root: Module, target: str, value: Any) -> None:
    *path, last = target.split(".")
    owner = root
    for name in path:
        if not hasattr(owner, name):
            owner.add_module(name, Module())
        owner = getattr(owner, name)
    setattr(owner, last, value)
