"""Copies of graphs that share tensors."""

from __future__ import annotations

from typing import Any

from torch.fx import Graph, GraphModule, Node
from torch.nn import Module

from ._graph_writer import GraphWriter
from ._lazy_code import LazyGraphModule
from ._stamps import carry_stamp
from ._torch.graphs import LazyGraphModule as TorchLazyGraphModule


def copy_graph_module(graph_module: GraphModule) -> GraphModule:
    """Return a copy whose graph, and the graphs of the regions in it, can be edited freely.

    Node names, metadata and stamps are kept; metadata dictionaries are copied one level deep. A
    region that stands under several names is one region in the copy as well. Tensors and modules
    that are no graphs are shared, never copied.
    """
    return _copy(graph_module, {})


def _copy(graph_module: GraphModule, copied: dict[int, GraphModule]) -> GraphModule:
    graph = _copy_graph(graph_module.graph)
    root = _shallow_root(graph_module, copied)
    # A copy of a graph whose code is generated when it is first needed is such a graph.
    kind = LazyGraphModule if isinstance(graph_module, TorchLazyGraphModule) else GraphModule
    result = kind(root, graph, type(graph_module).__name__)
    result.meta = dict(graph_module.meta)
    return result


def _copy_graph(source: Graph) -> Graph:
    writer = GraphWriter(source)
    copies: dict[Node, Node] = {}
    find = copies.__getitem__
    for node in source.nodes:
        copy = writer.copy(node, find)
        carry_stamp(node, copy)
        copies[node] = copy
    return writer.graph


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
