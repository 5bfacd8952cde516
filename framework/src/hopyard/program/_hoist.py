"""Tensors that regions hold, taken out to where the program's own are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ..hops import Operator
from ..tracing import drop_unused_attributes


def hoist_tensors(graph_module: GraphModule) -> None:
    """Give regions as operands the tensors that their bodies read from their own modules.

    Only a tensor of the outermost graph can be given to the program, shared with another, or saved.
    """
    for reader in list(graph_module.graph.find_nodes(op="get_attr")):
        body = getattr(graph_module, str(reader.target))
        if not isinstance(body, GraphModule):
            continue
        hoist_tensors(body)
        if all(_is_region_call(user, reader) for user in reader.users):
            _hoist(graph_module, reader, body)


def _is_region_call(node: Node, body: Node) -> bool:
    operator = node.target
    is_region = isinstance(operator, Operator) and operator.definition.kind == "region"
    return is_region and node.args[0] is body and body not in node.args[1:]


def _hoist(graph_module: GraphModule, reader: Node, body: GraphModule) -> None:
    readers = [
        node
        for node in body.graph.find_nodes(op="get_attr")
        if isinstance(getattr(body, str(node.target)), Tensor)
    ]
    placeholders: dict[str, Node] = {}
    for node in readers:
        name = str(node.target)
        if name not in placeholders:
            placeholders[name] = _append_placeholder(body, node)
            _append_operand(graph_module, reader, getattr(body, name), node)
        node.replace_all_uses_with(placeholders[name])
        body.graph.erase_node(node)
    if readers:
        drop_unused_attributes(body)
        body.recompile()


def _append_placeholder(body: GraphModule, like: Node) -> Node:
    first = next(node for node in body.graph.nodes if node.op != "placeholder")
    with body.graph.inserting_before(first):
        placeholder = body.graph.placeholder(f"captured_{like.name.strip('_')}")
    placeholder.target = placeholder.name
    placeholder.meta = dict(like.meta)
    return placeholder


def _append_operand(graph_module: GraphModule, reader: Node, tensor: Tensor, like: Node) -> None:
    name = f"{reader.target}{like.target}"
    setattr(graph_module, name, tensor)
    with graph_module.graph.inserting_before(reader):
        operand = graph_module.graph.create_node("get_attr", name)
    operand.meta = dict(like.meta)
    for user in list(reader.users):
        user.args = (*user.args, operand)


def inline_numbers(graph_module: GraphModule) -> None:
    """Write the numbers that regions of torch's operators are given into their bodies.

    Dynamo, which takes the bodies first, makes an operand of a size if it has seen the region with
    another. Graphs would depend on what ran before the capture, and torch saves none of that kind.
    """
    for node in list(graph_module.graph.nodes):
        operands = node.args[-1] if node.op == "call_function" and node.args else None
        if not isinstance(operands, (tuple, list)):
            continue
        read = [getattr(graph_module, str(each.target)) for each in node.args if _reads(each)]
        bodies = [body for body in read if isinstance(body, GraphModule)]
        for body in bodies:
            inline_numbers(body)
        if bodies and all(_takes(body, len(operands)) for body in bodies):
            for body in bodies:
                _inline(body, operands)
            kept = tuple(each for each in operands if not _is_number(each))
            node.args = (*node.args[:-1], kept)


def _reads(argument: object) -> bool:
    return isinstance(argument, Node) and argument.op == "get_attr"


def _takes(body: GraphModule, count: int) -> bool:
    return len(body.graph.find_nodes(op="placeholder")) == count


def _is_number(operand: object) -> bool:
    return isinstance(operand, int | float)


def _inline(body: GraphModule, operands: Sequence[Any]) -> None:
    for placeholder, operand in zip(body.graph.find_nodes(op="placeholder"), operands, strict=True):
        if not _is_number(operand):
            continue

        def written(node: Node, of: Node = placeholder, number: Any = operand) -> Any:
            return number if node is of else node

        for user in list(placeholder.users):
            user.args = map_arg(user.args, written)
            user.kwargs = map_arg(user.kwargs, written)
        body.graph.erase_node(placeholder)
    body.recompile()
