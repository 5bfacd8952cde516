"""Whether every symbol that metadata speaks of comes from somewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import GraphModule

from hopyard._torch.pytree import tree_leaves
from hopyard._torch.symbolic import free_symbols

from ._graphs import walk_graphs
from ._structure import unsound


def check_symbols(graph_module: GraphModule) -> None:
    """Check that a symbol of a size or number is one of an input or of an earlier node.

    A node makes symbols if its `meta["unbacked_bindings"]` says so. The body of a region may speak
    of all symbols of the graphs around it.

    Raises:
        VerificationError: The first node that speaks of a symbol that nothing makes.
    """
    bound: set[Any] = set()
    for path, body in walk_graphs(graph_module):
        for node in body.graph.nodes:
            found = set(_symbols(node.meta.get("val")))
            made = node.meta.get("unbacked_bindings") or ()
            if node.op == "placeholder":
                bound |= found
            missing = found.difference(bound, made)
            if missing:
                names = ", ".join(sorted(map(str, missing)))
                raise unsound(
                    path,
                    node,
                    f"has a meta['val'] with {names}, which no input and no earlier node makes",
                    "keep meta['unbacked_bindings'] of the node that makes a symbol",
                )
            bound.update(made)


def _symbols(value: Any) -> Iterable[Any]:
    leaves = [value] if isinstance(value, Tensor) else tree_leaves(value)
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            if any(type(size) is not int for size in leaf.shape):
                yield from free_symbols(leaf)
        elif isinstance(leaf, (SymBool, SymFloat, SymInt)):
            yield from free_symbols(leaf)
