"""A recorded program as safeguards judge it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch.fx import Graph, Node
from torch.nn import Module

from hopyard_hookspecs import Moment

from ._gradient_flow import GradientFlow


class Recording:
    """A recorded program, before anything was changed about its graph.

    Args:
        graph: The graph as recorded, in-place operators included.
        result: What the program returned, flat; None if that is not known.
        constants: Names of the placeholders through which no gradient is asked for.
        root: The module that holds what the graph reads.
    """

    def __init__(
        self,
        graph: Graph,
        result: Sequence[Any] | None = None,
        constants: frozenset[str] = frozenset(),
        root: Module | None = None,
    ) -> None:
        self.graph = graph
        self._root = root
        self.result = result
        self.constants = constants

    @cached_property
    def gradient_flow(self) -> GradientFlow:
        """Where gradients go when the graph is differentiated."""
        return GradientFlow(self.graph, self.constants, self._root)

    def between(self, start: Moment, end: Moment | None = None) -> list[Node]:
        """Return the nodes recorded between two moments, or since one."""
        nodes = self.graph.nodes
        first = next(iter(nodes), None) if start.last is None else start.last.next
        last = None if end is None else end.last
        if first is None or (end is not None and last is start.last):
            return []
        found = []
        while first.op not in ("root", "output"):
            found.append(first)
            if first is last:
                break
            first = first.next
        return found


def now(graph: Graph) -> Moment:
    """Return how far the recording of a graph is."""
    return Moment(graph, next(iter(reversed(graph.nodes)), None))
