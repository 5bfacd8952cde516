"""What is removed from a graph when a trace ends: symbolic computations nobody needs, or that stand
twice.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Graph, Node

from ..._torch.symbolic import is_accessor_node
from ..symbols._tracker import SYMBOLIC


def remove_unused_symbols(graph: Graph) -> None:
    """Remove symbolic numbers that nothing uses.

    Only what computes numbers from numbers, or reads a size, can go. Reading a value (`.item()`)
    stays, used or not: it fails on tensors of several elements, and it may bind a symbol.
    """
    for node in reversed(graph.nodes):
        if not node.users and node.op != "placeholder" and not _must_stay(node):
            graph.erase_node(node)


def merge_symbols(graph: Graph) -> None:
    """Let one node stand for each symbolic expression that inputs alone determine.

    Others are left alone: merging them could make a forward part of a graph depend on a backward
    part.
    """
    determined: set[Node] = set()
    first: dict[Any, Node] = {}
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if not isinstance(value, SYMBOLIC):
            continue
        key = (type(value), value.node.expr)  # type: ignore[attr-defined]
        if node.op == "placeholder":
            determined.add(node)
            first[key] = node
        elif key in first:
            node.replace_all_uses_with(first[key])
            graph.erase_node(node)
        elif all(operand in determined for operand in node.all_input_nodes):
            first[key] = node
            determined.add(node)


def _must_stay(node: Node) -> bool:
    if node.is_impure():
        return True
    if is_accessor_node(node):
        return False
    operands = [operand for operand in node.args if isinstance(operand, Node)]
    computed = isinstance(node.meta.get("val"), SYMBOLIC)
    return not (computed and all(isinstance(each.meta.get("val"), SYMBOLIC) for each in operands))
