"""Bodies of higher-order operators as graphs of their own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.fx import GraphModule, Node

from ..._torch.pytree import tree_flatten, tree_flatten_with_path, tree_unflatten
from ..symbols._tracker import append_placeholder


class Region(NamedTuple):
    """The body of a higher-order operator as a graph.

    Attributes:
        graph_module: The body; its inputs are the operands, then what it captured.
        captured: What the body used of the enclosing capture without being given it, symbolic
            numbers first, then tensors.
    """

    graph_module: GraphModule
    captured: tuple[Any, ...]


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
            placeholder = append_placeholder(graph, f"captured{len(captured)}")
            placeholder.meta = dict(node.meta)
            captured[id(value)] = (value, placeholder)
        node.replace_all_uses_with(captured[id(value)][1])
        graph.erase_node(node)
    if captured:
        drop_unused_attributes(graph_module)
        graph_module.recompile()
    return Region(graph_module, tuple(value for value, _ in captured.values()))


def nest_inputs(graph_module: GraphModule, operands: Sequence[Any]) -> None:
    """Let a graph of the leaves of `operands` take the operands themselves.

    Inputs that come after those of the leaves stay.
    """
    graph = graph_module.graph
    inputs = graph.find_nodes(op="placeholder")
    leaves = iter(inputs)
    first = next((node for node in graph.nodes if node.op != "placeholder"), None)
    assert first is not None
    for index, operand in enumerate(operands):
        paths, _ = tree_flatten_with_path(operand)
        given = [next(leaves) for _ in paths]
        if not isinstance(operand, (list, tuple, dict)):
            continue
        with graph.inserting_before(given[0] if given else inputs[0] if inputs else first):
            whole = graph.placeholder(f"operand{index}")
        if all("val" in node.meta for node in given):
            _, spec = tree_flatten(operand)
            whole.meta["val"] = tree_unflatten([node.meta["val"] for node in given], spec)
        for (path, _), node in zip(paths, given, strict=True):
            item = whole
            with graph.inserting_before(first):
                for step in path:
                    item = graph.call_function(operator.getitem, (item, _key(step)))
            item.meta = dict(node.meta)
            node.replace_all_uses_with(item)
            graph.erase_node(node)
    graph_module.recompile()


def _key(step: Any) -> Any:
    return step.idx if hasattr(step, "idx") else step.key


def drop_unused_attributes(graph_module: GraphModule) -> None:
    """Delete the module's own tensors that no `get_attr` node reads; a file could not hold them."""
    used = {str(node.target) for node in graph_module.graph.find_nodes(op="get_attr")}
    own = [*graph_module._parameters, *graph_module._buffers]
    own += [name for name, value in vars(graph_module).items() if isinstance(value, Tensor)]
    for name in own:
        if name not in used:
            delattr(graph_module, name)
