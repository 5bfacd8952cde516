"""Regions taken apart, for what knows no regions."""

from __future__ import annotations

import operator
from typing import Any

from torch.fx import GraphModule, Node

from hopyard import Program
from hopyard.errors import ProgramError
from hopyard.hops import Operator
from hopyard.partitioning import copy_graph_module

from ._lowered_module import call_delegate


def inline_regions(program: Program) -> Program:
    """Return a program in which regions that only run their bodies are the operators in these.

    Raises:
        ProgramError: A region does more than run its body.
    """
    graph_module = copy_graph_module(program.graph_module)
    if not any(map(_is_region, graph_module.graph.nodes)):
        return program
    _inline(graph_module)
    return program.with_graph(graph_module)


def _is_region(node: Node) -> bool:
    return isinstance(node.target, Operator) and node.target is not call_delegate


def _inline(graph_module: GraphModule) -> None:
    for node in list(graph_module.graph.nodes):
        target = node.target
        if not isinstance(target, Operator) or target is call_delegate:
            continue
        if target.definition.kind != "region" or not target.runs_its_body:
            raise ProgramError(
                f"{node.name} calls {target.name()}, which ExecuTorch does not have",
                hint="replace it by operators with a pass of your own",
                stage="to_executorch",
            )
        body: Any = node.args[0]
        region = getattr(graph_module, str(body.target))
        _inline(region)
        splice(node, region, list(node.args[1:]))
        if not body.users:
            graph_module.graph.erase_node(body)
    graph_module.recompile()


def splice(call: Node, body: GraphModule, operands: list[Any]) -> None:
    """Put the operators of a graph in the place of a call of it."""
    graph = call.graph
    placeholders = body.graph.find_nodes(op="placeholder")
    copies: dict[Node, Any] = dict(zip(placeholders, operands, strict=True))
    owner: Any = graph.owning_module
    with graph.inserting_before(call):
        for node in body.graph.nodes:
            if node.op == "get_attr":
                name = _fresh(owner, str(node.target))
                setattr(owner, name, getattr(body, str(node.target)))
                copies[node] = graph.get_attr(name)
                copies[node].meta = dict(node.meta)
            elif node.op == "call_function":
                copies[node] = graph.node_copy(node, lambda each: copies[each])
    returned: Any = body.graph.output_node().args[0]
    if isinstance(returned, Node):
        call.replace_all_uses_with(copies[returned])
    else:
        for user in list(call.users):
            if user.target is not operator.getitem:
                raise ProgramError(f"{user.name} uses all results of {call.name} at once")
            index: Any = user.args[1]
            value = returned[index]
            user.replace_all_uses_with(copies[value] if isinstance(value, Node) else value)
            graph.erase_node(user)
    graph.erase_node(call)


def _fresh(owner: Any, name: str) -> str:
    index, found = 0, name
    while hasattr(owner, found):
        index, found = index + 1, f"{name}_{index}"
    return found
