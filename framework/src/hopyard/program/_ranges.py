"""Sizes and numbers that are only known when a program runs, and what is promised of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sympy  # type: ignore[import-untyped]
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import GraphModule

from .._torch.exporting import ValueRanges, insert_runtime_asserts
from .._torch.pytree import tree_leaves
from .._torch.symbolic import ShapeEnv

RangeConstraints = Mapping[sympy.Symbol, ValueRanges[Any]]
"""The least and the greatest value of each symbol."""


def check_promises(graph_module: GraphModule, shape_env: ShapeEnv | None) -> RangeConstraints:
    """Return the ranges of the symbols in a graph, and let the graph check them when it runs.

    What `torch._check` promises of a number that is read from data leaves no operator in a capture;
    it becomes one here.
    """
    if shape_env is None or not shape_env.var_to_range:
        return {}
    nodes = graph_module.graph.nodes
    found = {symbol for node in nodes for symbol in symbols_in(node.meta.get("val"))}
    if not found:
        return {}
    insert_runtime_asserts(graph_module, shape_env, "program", export=True)
    graph_module.recompile()
    return {symbol: shape_env.var_to_range[symbol] for symbol in sorted(found, key=str)}


def symbols_in(value: Any) -> Iterator[sympy.Symbol]:
    """Yield the symbols in a value's sizes, or in the value itself."""
    for leaf in tree_leaves(value):
        for number in leaf.shape if isinstance(leaf, Tensor) else (leaf,):
            if isinstance(number, SymInt | SymFloat | SymBool):
                yield from number.node.expr.free_symbols
