"""What exported programs need besides a graph: ranges of symbols, checked at run time."""

from __future__ import annotations

from torch._export.passes.replace_autocast_with_hop_pass import (
    replace_autocast_with_hop_pass as autocast_to_regions,
)
from torch._export.passes.replace_set_grad_with_hop_pass import (
    replace_set_grad_with_hop_pass as grad_modes_to_regions,
)
from torch.export.dynamic_shapes import _DerivedDim as DerivedDim
from torch.fx.experimental.symbolic_shapes import DimDynamic as DimDynamic
from torch.fx.experimental.symbolic_shapes import (
    StatelessSymbolicContext as StatelessSymbolicContext,
)
from torch.fx.experimental.symbolic_shapes import rebind_unbacked as rebind_unbacked
from torch.fx.passes.runtime_assert import (
    insert_deferred_runtime_asserts as insert_runtime_asserts,
)
from torch.utils._sympy import functions as _functions
from torch.utils._sympy.numbers import int_oo as infinity
from torch.utils._sympy.value_ranges import ValueRanges as ValueRanges

EXPRESSION_FUNCTIONS = {
    name: getattr(_functions, name)
    for name in (
        *("CeilDiv", "CeilToInt", "CleanDiv", "FloorDiv", "FloorToInt"),
        *("Mod", "ModularIndexing", "PythonMod", "Where"),
    )
}
"""What torch writes in expressions besides what sympy has, by name."""

__all__ = [
    "EXPRESSION_FUNCTIONS",
    "DerivedDim",
    "DimDynamic",
    "StatelessSymbolicContext",
    "ValueRanges",
    "autocast_to_regions",
    "grad_modes_to_regions",
    "infinity",
    "insert_runtime_asserts",
    "rebind_unbacked",
]
