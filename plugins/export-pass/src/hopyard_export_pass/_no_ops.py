"""`remove-no-ops`: operators that return their operand as it is are left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard.verify import walk_graphs
from hopyard_hookspecs import PassResult

from ._compare import describe
from ._effects import is_pure, sharing_with_output

aten = torch.ops.aten

_ALIASES = frozenset(
    {
        aten.alias.default,
        aten.contiguous.default,
        aten.expand.default,
        aten.narrow.default,
        aten.permute.default,
        aten.reshape.default,
        aten.slice.Tensor,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.transpose.int,
        aten.view.default,
    }
)
"""Return the operand or a view of it from the same first element on."""

_COPIES = frozenset(
    {
        aten._to_copy.default,
        aten._unsafe_view.default,
        aten.clone.default,
        aten.lift_fresh_copy.default,
    }
)
"""Return the operand's values in new storage, or act as if they did."""


@dataclass(frozen=True)
class RemoveNoOps:
    """Remove operators that change neither values nor what shares storage, also in regions.

    An operator is left out only if its result has the shape, strides, data type, device and layout
    of its operand, the graph writes to no tensor, and one of these holds:

    - It returns its operand or a view of it: `alias`, `contiguous`, `expand`, `narrow`, `permute`,
      `reshape`, `slice`, `squeeze`, `transpose`, `view`, and `dropout` outside of training. It
      stays if the graph returns its result, which must not become the operand itself.
    - It copies its operand: `clone`, `lift_fresh_copy`, `_unsafe_view`, and `_to_copy` unless into
      pinned memory. It stays if what the graph returns could share storage with its result: the
      caller may write to that.
    - It computes, into new storage, what is its operand in every bit, those inside a nan excepted:
      `x * 1` and `x / 1`, not of complex numbers, whose infinities become nan; `x - 0`; `x + 0` of
      integers only, since `-0.0 + 0` is `0.0`. It stays where a copy would. (Where
      `torch.set_flush_denormal` is on, arithmetic flushes subnormal numbers; without the operator
      they are not flushed there.)

    `detach` stays, since it stops gradients, and so do in-place graphs as they are.
    """

    def __call__(self, graph_module: GraphModule) -> PassResult:
        """Remove operators in place."""
        if not is_pure(graph_module):
            return PassResult(graph_module, modified=False)
        changed = [_clean(body) for _, body in walk_graphs(graph_module)]
        return PassResult(graph_module, any(changed))


def _clean(graph_module: GraphModule) -> bool:
    returned = set(graph_module.graph.output_node().all_input_nodes)
    shared = sharing_with_output(graph_module)
    changed = False
    for node in graph_module.graph.nodes:
        kept = returned if _is_alias(node) else shared
        if node in kept or not (_is_alias(node) or _is_copy(node)) or not _keeps_type(node):
            continue
        node.replace_all_uses_with(node.args[0])
        graph_module.graph.erase_node(node)
        changed = True
    if changed:
        graph_module.recompile()
    return changed


def _keeps_type(node: Node) -> bool:
    operand = node.args[0] if node.args else None
    if not isinstance(operand, Node):
        return False
    before, after = operand.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    return before.layout == torch.strided and describe(before) == describe(after)


def _is_alias(node: Node) -> bool:
    if node.target is aten.dropout.default:
        return len(node.args) == 3 and node.args[2] is False
    return node.target in _ALIASES


def _is_copy(node: Node) -> bool:
    if node.target is aten._to_copy.default:
        return not node.kwargs.get("pin_memory")
    if node.target in _COPIES:
        return True
    is_identity = _IDENTITY_OPERANDS.get(node.target)
    if is_identity is None or len(node.args) != 2 or node.kwargs:
        return False
    number, value = node.args[1], node.meta.get("val")
    if type(number) not in (int, float) or not isinstance(value, Tensor):
        return False
    return is_identity(cast(float, number), value.dtype)


def _is_one(number: float, dtype: torch.dtype) -> bool:
    return number == 1 and not dtype.is_complex


def _is_zero_to_add(number: float, dtype: torch.dtype) -> bool:
    return number == 0 and not dtype.is_floating_point and not dtype.is_complex


def _is_zero_to_subtract(number: float, dtype: torch.dtype) -> bool:
    # x - (-0.0) is x + 0.0, which has another sign than x if x is -0.0.
    return number == 0 and math.copysign(1, number) > 0 and not dtype.is_complex


_IDENTITY_OPERANDS: Mapping[Any, Callable[[float, torch.dtype], bool]] = {
    aten.add.Scalar: _is_zero_to_add,
    aten.add.Tensor: _is_zero_to_add,
    aten.div.Scalar: _is_one,
    aten.div.Tensor: _is_one,
    aten.mul.Scalar: _is_one,
    aten.mul.Tensor: _is_one,
    aten.sub.Scalar: _is_zero_to_subtract,
    aten.sub.Tensor: _is_zero_to_subtract,
}
"""Return the first operand's values in new storage if this is true of the second, a number."""
