"""Copies of graphs that share tensors."""

from __future__ import annotations

from torch.fx import Graph, GraphModule, Node
from torch.nn import Module

from ._torch.graphs import make_graph_module


def copy_graph_module(graph_module: GraphModule) -> GraphModule:
    """Return a copy whose graph, and the graphs of the regions in it, can be edited freely.

    Node names and metadata are kept; metadata dictionaries are copied one level deep. Tensors and modules
    that are no graphs are shared, never copied.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    output = graph.graph_copy(graph_module.graph, copies)
    source = graph_module.graph.output_node()
    copies[source] = graph.output(output, type_expr=source.type)
    for original, copy in copies.items():
        # graph_copy gives nodes fresh names where the namespace has seen a base name before.
        copy.name = original.name
        copy.meta = dict(original.meta)
        if original.op == "placeholder":
            copy.target = original.target
    graph.set_codegen(graph_module.graph._codegen)
    copied = make_graph_module(_shallow_root(graph_module), graph, type(graph_module).__name__)
    copied.meta = dict(graph_module.meta)
    return copied


def _shallow_root(graph_module: GraphModule) -> Module:
    root = Module()
    for name, child in graph_module.named_children():
        copy = copy_graph_module(child) if isinstance(child, GraphModule) else child
        root.add_module(name, copy)
    for name, parameter in graph_module.named_parameters(recurse=False):
        root.register_parameter(name, parameter)
    for name, buffer in graph_module.named_buffers(recurse=False):
        root.register_buffer(name, buffer)
    referenced = {str(node.target) for node in graph_module.graph.find_nodes(op="get_attr")}
    for name in referenced:
        if not hasattr(root, name):
            setattr(root, name, getattr(graph_module, name))
    return root
