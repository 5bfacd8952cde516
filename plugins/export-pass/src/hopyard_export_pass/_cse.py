"""`cse`: what was computed before is not computed again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import Module

from hopyard.verify import walk_graphs
from hopyard_hookspecs import PassResult

from ._compare import attribute, describe
from ._effects import is_pure, is_removable, sharing_with_output


@dataclass(frozen=True)
class EliminateCommonSubexpressions:
    """Let nodes that compute the same from the same be one node, also in bodies of regions.

    Two nodes are the same if they call one operator with the same nodes and with constants of the
    same type and value. Left alone are random operators, `.item()`, operators whose results have
    sizes that depend on data, higher-order operators that do more than run their bodies, and graphs
    that write to a tensor. Two results that both may share memory with what the graph returns stay
    two: a caller may write to one of them.
    """

    def __call__(self, graph_module: GraphModule) -> PassResult:
        """Merge nodes in place."""
        if not is_pure(graph_module):
            return PassResult(graph_module, modified=False)
        # A call of two bodies that became alike is not known to be alike: bodies are objects.
        changed = [_merge(body) for _, body in reversed(list(walk_graphs(graph_module)))]
        return PassResult(graph_module, any(changed))


def _merge(graph_module: GraphModule) -> bool:
    shared = sharing_with_output(graph_module)
    known: dict[Hashable, Node] = {}
    changed = False
    for node in graph_module.graph.nodes:
        if not _is_repeatable(graph_module, node):
            continue
        key = _key(graph_module, node)
        first = known.setdefault(key, node)
        if first is node or (first in shared and node in shared):
            continue
        if describe(first.meta.get("val")) != describe(node.meta.get("val")):
            continue
        node.replace_all_uses_with(first)
        graph_module.graph.erase_node(node)
        changed = True
        if node in shared:
            # What shares memory with the first may now be returned too.
            shared = sharing_with_output(graph_module)
    if changed:
        graph_module.recompile()
    return changed


def _is_repeatable(graph_module: GraphModule, node: Node) -> bool:
    """Say whether a node computes the same each time, and nothing else happens."""
    return (
        node.op in ("call_function", "get_attr")
        and is_removable(graph_module, node)
        and not node.meta.get("unbacked_bindings")
    )


def _key(graph_module: GraphModule, node: Node) -> Hashable:
    if node.op == "get_attr":
        value = attribute(graph_module, str(node.target))
        is_object = isinstance(value, (Tensor, Module))
        return (node.op, id(value) if is_object else str(node.target))
    return (node.target, _argument(node.args), _argument(node.kwargs))


def _argument(value: Any) -> Hashable:
    if isinstance(value, (Node, Module)):
        return ("object", id(value))
    if isinstance(value, slice):
        return ("slice", _argument((value.start, value.stop, value.step)))
    if isinstance(value, (list, tuple)):
        return ("list" if isinstance(value, list) else "tuple", *map(_argument, value))
    if isinstance(value, Mapping):
        return ("mapping", *((key, _argument(value[key])) for key in sorted(value)))
    # 1, 1.0 and True are equal in Python and different to an operator; nan is unlike itself.
    return (type(value).__name__, repr(value))
