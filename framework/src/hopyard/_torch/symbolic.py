"""Symbolic numbers: sizes that are expressions."""

from __future__ import annotations

from torch.fx.experimental.sym_node import SymNode as SymNode
from torch.fx.experimental.symbolic_shapes import (
    GuardOnDataDependentSymNode as GuardOnDataDependentSymNode,
)
from torch.fx.experimental.symbolic_shapes import ShapeEnv as ShapeEnv
from torch.fx.experimental.symbolic_shapes import (
    compute_unbacked_bindings as compute_unbacked_bindings,
)
from torch.fx.experimental.symbolic_shapes import is_accessor_node as is_accessor_node
from torch.fx.experimental.symbolic_shapes import statically_known_true as statically_known_true
from torch.utils._sympy.interp import handlers as expression_handlers

__all__ = [
    "GuardOnDataDependentSymNode",
    "ShapeEnv",
    "SymNode",
    "compute_unbacked_bindings",
    "expression_handlers",
    "is_accessor_node",
    "statically_known_true",
]
