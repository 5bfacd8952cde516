"""Whether a replayed graph says the same as the one it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ._values import RECOMPUTED


def describe(value: Any) -> Any:
    """Return what `meta["val"]` claims of a value, in a form that can be compared and hashed."""
    if isinstance(value, Tensor):
        stride = tuple(value.stride()) if value.layout == torch.strided else None
        flags = (value.is_conj(), value.is_neg())
        return (tuple(value.shape), stride, value.dtype, value.device, value.layout, flags)
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple, *map(describe, value))
    if isinstance(value, Mapping):
        return (dict, *((key, describe(item)) for key, item in value.items()))
    # 1, 1.0 and True are equal in Python and different to an operator; nan is unlike itself.
    return (type(value), repr(value))


def attribute(module: torch.nn.Module, target: str) -> Any:
    """Return what a `get_attr` node with that target reads."""
    value: Any = module
    for name in target.split("."):
        value = getattr(value, name)
    return value


def same_graph(before: GraphModule, after: GraphModule) -> bool:
    """Say whether two graphs have the same nodes, with the same arguments and the same metadata.

    Names of nodes do not count. Tensors that a graph reads are the same if they are one object.
    """
    nodes_before, nodes_after = list(before.graph.nodes), list(after.graph.nodes)
    if len(nodes_before) != len(nodes_after):
        return False
    counterparts = dict(zip(nodes_before, nodes_after, strict=True))
    return all(
        _same_target(before, node, after, counterpart)
        and _same_arguments(node.args, counterpart.args, counterparts)
        and _same_arguments(node.kwargs, counterpart.kwargs, counterparts)
        and _same_metadata(node.meta, counterpart.meta)
        for node, counterpart in counterparts.items()
    )


def _same_target(before: GraphModule, node: Node, after: GraphModule, counterpart: Node) -> bool:
    if node.op != counterpart.op or node.target != counterpart.target:
        return False
    if node.op != "get_attr":
        return True
    one, other = (
        attribute(before, str(node.target)),
        attribute(after, str(counterpart.target)),
    )
    if isinstance(one, GraphModule) and isinstance(other, GraphModule):
        return one is other or same_graph(one, other)
    return one is other


def _same_arguments(left: Any, right: Any, counterparts: Mapping[Node, Node]) -> bool:
    if isinstance(left, Node):
        return counterparts.get(left) is right
    if isinstance(left, slice) and isinstance(right, slice):
        left = (left.start, left.stop, left.step)
        right = (right.start, right.stop, right.step)
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and left.keys() == right.keys()
            and all(_same_arguments(left[key], right[key], counterparts) for key in left)
        )
    if isinstance(left, (list, tuple)):
        kind = list if isinstance(left, list) else tuple
        return (
            isinstance(right, kind)
            and len(left) == len(right)
            and all(
                _same_arguments(one, other, counterparts)
                for one, other in zip(left, right, strict=True)
            )
        )
    return left is right or (type(left) is type(right) and repr(left) == repr(right))


def _same_metadata(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    if describe(left.get("val")) != describe(right.get("val")):
        return False
    keys = (left.keys() | right.keys()) - RECOMPUTED
    # A pass that keeps an entry keeps the object; comparing others by value may be costly or
    # undefined.
    return all(key in left and key in right and _is_kept(left[key], right[key]) for key in keys)


def _is_kept(left: Any, right: Any) -> bool:
    return left is right or (isinstance(left, (str, int, float)) and bool(left == right))
