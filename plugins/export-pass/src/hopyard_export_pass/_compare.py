"""Whether a replayed graph says the same as the one it was made from."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import Graph, GraphModule, Node

from hopyard.replaying import ATOMS, STAMP, FakeTensor, is_same_value

from ._values import RECOMPUTED

_COMPUTED: Final = RECOMPUTED | {"unbacked_bindings"}
_UNBACKED: Final = re.compile(r"\b(u|zuf)(\d+)\b")


def describe(value: Any, names: dict[str, str] | None = None) -> Any:
    """Return what `meta["val"]` claims of a value, in a form that can be compared and hashed.

    Args:
        value: A value, or a container of values.
        names: What symbols that depend on data are called, in the order of their appearance; filled
            here. Without it they are called what they are.
    """
    if isinstance(value, Tensor):
        stride = _numbers(value.stride(), names) if value.layout == torch.strided else None
        flags = (value.is_conj(), value.is_neg())
        shape = _numbers(value.shape, names)
        return (shape, stride, value.dtype, value.device, value.layout, flags)
    if isinstance(value, (list, tuple)):
        items = [describe(item, names) for item in value]
        return (list if isinstance(value, list) else tuple, *items)
    if isinstance(value, Mapping):
        return (dict, *((key, describe(item, names)) for key, item in value.items()))
    if isinstance(value, (SymInt, SymFloat, SymBool)):
        return (type(value), *_numbers((value,), names))
    # 1, 1.0 and True are equal in Python and different to an operator; nan is unlike itself.
    return (type(value), repr(value))


def is_described(recorded: Any, value: Any) -> bool:
    """Say whether metadata that records one value describes another one."""
    return is_same_value(recorded, value) or describe(recorded) == describe(value)


def is_fitting(value: Tensor, val: Any) -> bool:
    """Say whether a tensor still is what its fake value says."""
    return bool(
        isinstance(val, FakeTensor)
        and not val._has_symbolic_sizes_strides
        and value.layout == val.layout
        and value.shape == val.shape
        and value.dtype == val.dtype
        and value.device == val.device
        and (value.layout != torch.strided or value.stride() == val.stride())
        and value.requires_grad == val.requires_grad
    )


def _numbers(values: Any, names: dict[str, str] | None) -> tuple[Any, ...]:
    return tuple(
        [
            value if isinstance(value, (int, float)) else _expression(value.node.expr, names)
            for value in values
        ]
    )


def _expression(expression: Any, names: dict[str, str] | None) -> Any:
    """Return a symbolic number as its expression: to compare numbers would add guards."""
    if expression.is_Integer:
        return int(expression)
    if names is None or not any(_UNBACKED.match(each.name) for each in expression.free_symbols):
        return expression
    return _UNBACKED.sub(
        lambda found: names.setdefault(found[0], f"{found[1]}#{len(names)}"), str(expression)
    )


def attribute(module: torch.nn.Module, target: str) -> Any:
    """Return what a `get_attr` node with that target reads."""
    value: Any = module
    for name in target.split("."):
        value = getattr(value, name)
    return value


def same_graph(before: GraphModule, after: GraphModule) -> bool:
    """Say whether two graphs have the same nodes, with the same arguments and the same metadata.

    Names of nodes do not count, and neither do those of symbols that depend on data. Tensors that a
    graph reads are the same if they are one object.
    """
    nodes_before, nodes_after = list(before.graph.nodes), list(after.graph.nodes)
    if len(nodes_before) != len(nodes_after):
        return False
    pairs = list(zip(nodes_before, nodes_after, strict=True))
    # What is compared fastest comes first: most passes that change a graph change an operator.
    if not all(one.op == other.op and one.target == other.target for one, other in pairs):
        return False
    counterparts = dict(pairs)

    def corresponds(left: Any, right: Any) -> bool:
        if isinstance(left, Node):
            return counterparts.get(left) is right
        return is_same_argument(left, right, corresponds)

    if not all(
        corresponds(one._args, other._args) and corresponds(one._kwargs, other._kwargs)
        for one, other in pairs
    ):
        return False
    names: tuple[dict[str, str], dict[str, str]] = ({}, {})
    return all(
        _same_value(one.meta.get("val"), other.meta.get("val"), names)
        and is_kept_metadata(one.meta, other.meta)
        and (one.op != "get_attr" or _same_attribute(before, one, after, other))
        for one, other in pairs
    )


def are_untouched(made: Graph, source: Graph) -> bool:
    """Say whether copies of nodes still are what they were when they were made."""
    for node, original in zip(made.nodes, source.nodes, strict=True):
        stamp = node.__dict__.get(STAMP)
        meta, known = node.meta, original.meta
        if (
            (stamp is None or stamp[0] is not node._args or stamp[1] is not node._kwargs)
            or len(meta) != len(known)
            or not all(map(operator.is_, meta.values(), known.values()))
        ):
            return False
    return True


def is_same_argument(left: Any, right: Any, corresponds: Callable[[Any, Any], bool]) -> bool:
    """Say whether two arguments are the same; `corresponds` compares what is in containers."""
    if isinstance(left, (list, tuple)):
        kind = list if isinstance(left, list) else tuple
        return (
            isinstance(right, kind)
            and len(left) == len(right)
            and all(map(corresponds, left, right))
        )
    if type(left) in ATOMS and left is right:
        return True
    if isinstance(left, slice):
        return isinstance(right, slice) and all(
            map(
                corresponds,
                (left.start, left.stop, left.step),
                (right.start, right.stop, right.step),
            )
        )
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and left.keys() == right.keys()
            and all(corresponds(left[key], right[key]) for key in left)
        )
    return left is right or (type(left) is type(right) and repr(left) == repr(right))


def is_kept_metadata(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Say whether what a pass hands on is the same in two nodes' metadata."""
    keys = (left.keys() | right.keys()) - _COMPUTED
    # A pass that keeps an entry keeps the object; comparing others by value may be costly or
    # undefined.
    return all(key in left and key in right and _is_kept(left[key], right[key]) for key in keys)


def _same_value(left: Any, right: Any, names: tuple[dict[str, str], dict[str, str]]) -> bool:
    if left is right and type(left) is FakeTensor and not left._has_symbolic_sizes_strides:
        return True
    return bool(describe(left, names[0]) == describe(right, names[1]))


def _same_attribute(before: GraphModule, node: Node, after: GraphModule, counterpart: Node) -> bool:
    one = attribute(before, str(node.target))
    other = attribute(after, str(counterpart.target))
    if isinstance(one, GraphModule) and isinstance(other, GraphModule):
        return one is other or same_graph(one, other)
    return one is other


def _is_kept(left: Any, right: Any) -> bool:
    return left is right or (isinstance(left, (str, int, float)) and bool(left == right))
