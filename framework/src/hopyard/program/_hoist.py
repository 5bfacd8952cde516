"""Tensors that regions hold, taken out to where the program's own are."""

from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule, Node

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
