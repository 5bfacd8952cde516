"""Sizes and numbers that are only known when a program runs, and what is promised of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sympy  # type: ignore[import-untyped]
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import GraphModule

from .._torch.exporting import ValueRanges, infinity, insert_runtime_asserts
from .._torch.pytree import tree_leaves
from .._torch.symbolic import ShapeEnv
from ._sizes import Range, Symbols

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
    if any(shape_env.is_unbacked_symint(symbol) for symbol in found):
        insert_runtime_asserts(graph_module, shape_env, "program", export=True)
        graph_module.recompile()
    return {symbol: shape_env.var_to_range[symbol] for symbol in sorted(found, key=str)}


def with_sizes(ranges: RangeConstraints, symbols: Symbols) -> RangeConstraints:
    """Return `ranges` with those of the sizes of inputs as calls are checked for them."""
    sizes = {each.symbol: ValueRanges(each.least, _upper(each)) for each in symbols.ranges}
    return {**ranges, **sizes}


def from_ranges(ranges: RangeConstraints, used: Iterable[sympy.Symbol]) -> Symbols:
    """Return what an exported program says of the symbols in the sizes of its inputs."""
    return Symbols(
        tuple(
            Range(symbol, _least(known), int(known.upper) if known.upper.is_Integer else None)
            for symbol in sorted(used, key=str)
            if (known := ranges.get(symbol)) is not None
        )
    )


def _least(known: ValueRanges[Any]) -> int:
    # torch exports every size as at least 2, and takes 0 and 1 all the same.
    return 0 if known.lower <= 2 else int(known.lower)


def _upper(size: Range) -> Any:
    return infinity if size.greatest is None else size.greatest


def symbols_in(value: Any) -> Iterator[sympy.Symbol]:
    """Yield the symbols in a value's sizes, or in the value itself."""
    for leaf in tree_leaves(value):
        for number in leaf.shape if isinstance(leaf, Tensor) else (leaf,):
            if isinstance(number, SymInt | SymFloat | SymBool):
                yield from number.node.expr.free_symbols
