"""Bodies of higher-order operators as graphs of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.fx import GraphModule, Node


class Region(NamedTuple):
    """The body of a higher-order operator as a graph.

    Attributes:
        graph_module: The body; its inputs are the operands, then what it captured.
        captured: Tensors of the enclosing capture that the body used without being given them.
    """

    graph_module: GraphModule
    captured: tuple[Tensor, ...]


def lift_captured(graph_module: GraphModule, is_captured: Callable[[Tensor], bool]) -> Region:
    """Turn constants of a body that belong to the enclosing capture into inputs, in order of use.

    A constant that stayed in the body would be the example value: right for the example, wrong for
    every other input.
    """
    graph = graph_module.graph
    captured: dict[int, tuple[Tensor, Node]] = {}
    for node in graph.find_nodes(op="get_attr"):
        value = getattr(graph_module, str(node.target))
        if not isinstance(value, Tensor) or not is_captured(value):
            continue
        if id(value) not in captured:
            placeholder = _append_placeholder(graph_module, f"captured{len(captured)}")
            placeholder.meta = dict(node.meta)
            captured[id(value)] = (value, placeholder)
        node.replace_all_uses_with(captured[id(value)][1])
        graph.erase_node(node)
    if captured:
        drop_unused_attributes(graph_module)
        graph_module.recompile()
    return Region(graph_module, tuple(value for value, _ in captured.values()))


def drop_unused_attributes(graph_module: GraphModule) -> None:
    """Delete the module's own tensors that no `get_attr` node reads; a file could not hold them."""
    used = {str(node.target) for node in graph_module.graph.find_nodes(op="get_attr")}
    own = [*graph_module._parameters, *graph_module._buffers]
    own += [name for name, value in vars(graph_module).items() if isinstance(value, Tensor)]
    for name in own:
        if name not in used:
            delattr(graph_module, name)


def _append_placeholder(graph_module: GraphModule, name: str) -> Node:
    graph = graph_module.graph
    placeholders = graph.find_nodes(op="placeholder")
    where = graph.inserting_after(placeholders[-1]) if placeholders else graph.inserting_before()
    with where:
        return graph.placeholder(name)
