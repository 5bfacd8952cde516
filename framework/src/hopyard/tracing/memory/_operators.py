"""What is known of an operator itself, whatever it is called with."""

from __future__ import annotations

from typing import Final

import torch

from ..._torch.dispatch import DispatchKey, OpOverload, layout_constraint

aten = torch.ops.aten

_NEVER: Final = frozenset(
    (
        # The value that they lift may be known.
        aten.lift_fresh.default,
        aten.lift_fresh_copy.default,
        # Questions that only symbolic sizes are asked, and that the dispatcher does not know.
        aten.size.default,
        aten.stride.default,
        aten.storage_offset.default,
    )
)
_UNPREDICTABLE: Final = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.inplace_view,
)


def is_predictable(func: OpOverload) -> bool:
    """Say whether an operator's results depend on what its operands are, not on their data.

    Indexing is predictable as long as no mask is among the indices.
    """
    if func.namespace not in ("aten", "prims") or func in _NEVER or needs_exact_strides(func):
        return False
    if func is aten.index.Tensor:
        return True
    if any(argument.is_out for argument in func._schema.arguments):
        # Such an operand may be resized to fit.
        return False
    return not any(tag in func.tags for tag in _UNPREDICTABLE)


def is_composite(func: OpOverload) -> bool:
    """Say whether an operator has a decomposition of its own, which autograd would have used."""
    return func.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)


def needs_exact_strides(func: OpOverload) -> bool:
    """Say whether an operator insists on the strides that it is called with."""
    return bool(layout_constraint(func) == torch.Tag.needs_exact_strides)
