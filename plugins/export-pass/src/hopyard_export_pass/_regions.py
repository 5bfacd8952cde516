"""What the bodies of higher-order operators are called with."""

from __future__ import annotations

from typing import Any

import torch

from hopyard.hops import Operator

from ._values import ProxyValue

_hops = torch.ops.higher_order


def region_inputs(op: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return what `op` called with `args` calls its bodies with, or None if that is not known."""
    if isinstance(op, Operator) and op.definition.kind == "region":
        return args[1:]
    if op is _hops.cond:
        return tuple(args[3])
    if op is _hops.map_impl:
        return (*map(_first_item, args[1]), *args[2])
    if op is _hops.invoke_subgraph:
        return args[2:]
    return None


def _first_item(value: Any) -> Any:
    data = value.data if isinstance(value, ProxyValue) else value
    return data[0]
