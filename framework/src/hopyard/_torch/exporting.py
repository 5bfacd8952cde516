"""What exported programs need besides a graph: ranges of symbols, checked at run time."""

from __future__ import annotations

from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE as DTYPES_IN_FILES
from torch.fx.experimental.symbolic_shapes import rebind_unbacked as rebind_unbacked
from torch.fx.passes.runtime_assert import (
    insert_deferred_runtime_asserts as insert_runtime_asserts,
)
from torch.utils._sympy.value_ranges import ValueRanges as ValueRanges

__all__ = [
    "DTYPES_IN_FILES",
    "ValueRanges",
    "insert_runtime_asserts",
    "rebind_unbacked",
]
