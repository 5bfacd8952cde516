"""What leaving out a node, or merging it with its operand, could be noticed by."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from hopyard.hops import Operator
from hopyard.operators import HigherOrderOperator, OpOverload
from hopyard.verify import walk_graphs
from hopyard_hookspecs.hops import call_body

from ._compare import attribute

_NUMBERS = (bool, int, float, complex, torch.SymBool, torch.SymFloat, torch.SymInt)
_NUMBER_MODULES = ("_operator", "math", "torch")
_UNSKIPPABLE = {torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output}
_FRESH = {torch.Tag.core, torch.Tag.pointwise}
_SEE_THROUGH = frozenset(
    {"associative_scan", "cond", "invoke_subgraph", "map_impl", "scan", "while_loop"}
)


def is_removable(graph_module: GraphModule, node: Node) -> bool:
    """Say whether a node that nothing uses can be left out.

    What stays: inputs and outputs; operators that write to an operand, draw random numbers (the
    next draw would differ), read the value of a tensor, return nothing, or that torch knows to have
    an effect; regions with such an operator in a body; higher-order operators that do more than run
    their bodies, as far as can be told; and functions that are neither operators nor functions of
    numbers.
    """
    if node.op == "get_attr":
        return True
    if node.op != "call_function" or node.is_impure():
        return False
    target: Any = node.target
    if isinstance(target, OpOverload):
        return bool(target._schema.returns) and _UNSKIPPABLE.isdisjoint(target.tags)
    if isinstance(target, HigherOrderOperator):
        return means_its_bodies(target) and all(
            is_removable(body, inner)
            for body in bodies_of(graph_module, node)
            for inner in body.graph.nodes
            if inner.op == "call_function"
        )
    return _is_function_of_values(node)


def means_its_bodies(op: HigherOrderOperator) -> bool:
    """Say whether a call of `op` is known to do nothing but run its bodies."""
    if isinstance(op, Operator):
        return op.definition.kind == "region" and op.definition.eager is call_body
    return op.name() in _SEE_THROUGH


def bodies_of(graph_module: GraphModule, node: Node) -> Iterator[GraphModule]:
    """Yield the bodies that a call of a higher-order operator is given."""
    for operand in node.all_input_nodes:
        if operand.op == "get_attr":
            value = attribute(graph_module, str(operand.target))
            if isinstance(value, GraphModule):
                yield value


def is_pure(graph_module: GraphModule) -> bool:
    """Say whether certainly nothing in a graph and its regions writes to a tensor.

    Tracers refuse bodies of regions that write to an operand; what another higher-order operator
    does is not known, unless it only runs its bodies.
    """
    return all(
        _writes_nothing(node) for _, body in walk_graphs(graph_module) for node in body.graph.nodes
    )


def sharing_with_output(graph_module: GraphModule) -> set[Node]:
    """Return the nodes whose tensors may share storage with what the graph returns."""
    found: set[Node] = set()
    remaining = list(graph_module.graph.output_node().all_input_nodes)
    while remaining:
        node = remaining.pop()
        if node in found:
            continue
        found.add(node)
        if not _returns_fresh(node):
            remaining += node.all_input_nodes
    return found


def _returns_fresh(node: Node) -> bool:
    """Say whether what a node computes certainly has storage of its own.

    An operator's schema tells whether it returns a view, except for operators that autograd
    decomposes: `contiguous` may return its operand. None of those is a core or pointwise operator.
    """
    target: Any = node.target
    if not isinstance(target, OpOverload) or _FRESH.isdisjoint(target.tags):
        return False
    return all(returned.alias_info is None for returned in target._schema.returns)


def _writes_nothing(node: Node) -> bool:
    target: Any = node.target
    if node.op != "call_function":
        return node.op not in ("call_module", "call_method")
    if isinstance(target, OpOverload):
        return not target._schema.is_mutable
    if isinstance(target, Operator):
        return target.definition.kind == "region" and not target.definition.writes
    if isinstance(target, HigherOrderOperator):
        return means_its_bodies(target)
    return _is_function_of_values(node)


def _is_function_of_values(node: Node) -> bool:
    """Say whether a node picks one of several results or computes a number."""
    if node.target is operator.getitem:
        return True
    is_known = getattr(node.target, "__module__", None) in _NUMBER_MODULES
    return is_known and isinstance(node.meta.get("val"), _NUMBERS)
