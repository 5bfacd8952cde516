"""What the bodies of higher-order operators are called with, and in what surroundings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch.fx import GraphModule

from hopyard.hops import Operator

from ._values import ProxyValue, leaves_of

_hops = torch.ops.higher_order

COND: Final = _hops.cond
MAP: Final = _hops.map_impl
WHILE_LOOP: Final = _hops.while_loop
SCAN: Final = _hops.scan

_AFTER_FIRST: Final = frozenset(
    ("strict_mode", "tag_activation_checkpoint", "wrap", "wrap_activation_checkpoint")
)
"""Operators whose operands follow the body."""


def region_inputs(op: Any, args: Sequence[Any]) -> tuple[Any, ...] | None:
    """Return what `op` called with `args` calls its bodies with.

    None means that it is not known, or that the operands are not what a body is called with each
    time it is: the metadata of its own inputs is right then.
    """
    if isinstance(op, Operator) and op.definition.kind == "region":
        return tuple(args[1:])
    if op is COND:
        return tuple(args[3]) if len(args) > 3 else ()
    if op is MAP:
        return (*map(_first_item, args[1]), *args[2])
    if op is _hops.invoke_subgraph:
        return tuple(args[2:])
    name = op.name() if hasattr(op, "name") else ""
    if name in _AFTER_FIRST and args and isinstance(args[0], GraphModule):
        return tuple(args[1:])
    if name == "wrap_with_set_grad_enabled":
        return tuple(args[2:])
    if name == "wrap_with_autocast":
        return tuple(args[5:])
    return None


def body_surroundings(op: Any, args: Sequence[Any]) -> AbstractContextManager[Any]:
    """Return what `op` enters around its body, as far as it decides what the body computes."""
    if hasattr(op, "name") and op.name() == "wrap_with_autocast":
        device, dtype, enabled, cached = args[:4]
        return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cached)
    return nullcontext()


def loop_inputs(body: GraphModule, given: Sequence[Any]) -> list[Any]:
    """Return what the body of a loop is called with each time.

    A tensor of the first round is like those of later rounds. A number is not: what the body's
    input says of it is right for all rounds.
    """
    placeholders = body.graph.find_nodes(op="placeholder")
    if len(placeholders) != len(given):
        return list(given)
    return [
        value if is_tensor(value) or "val" not in node.meta else node.meta["val"]
        for node, value in zip(placeholders, given, strict=True)
    ]


def slices_of(body: GraphModule, first: int, xs: Sequence[Any]) -> list[Any]:
    """Return what a body is given of each tensor that it is run along, from position `first` on."""
    placeholders = body.graph.find_nodes(op="placeholder")[first : first + len(xs)]
    return [
        node.meta["val"] if "val" in node.meta else _first_item(value)
        for node, value in zip(placeholders, xs, strict=True)
    ]


def is_tensor(value: Any) -> bool:
    """Say whether a handle or value is a tensor."""
    return isinstance(value.data if isinstance(value, ProxyValue) else value, torch.Tensor)


def bodies_in(arguments: Any) -> Iterator[GraphModule]:
    """Yield the graphs among arguments."""
    for leaf in leaves_of(arguments):
        if isinstance(leaf, GraphModule):
            yield leaf


def _first_item(value: Any) -> Any:
    data = value.data if isinstance(value, ProxyValue) else value
    return data[0]
