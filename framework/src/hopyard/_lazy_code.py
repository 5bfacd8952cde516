"""Graph modules whose code is generated when somebody reads or runs it."""

from __future__ import annotations

from typing import Any

from torch.fx import Node
from torch.fx.graph import PythonCode

from ._torch.graphs import LazyGraphModule as TorchLazyGraphModule


class LazyGraphModule(TorchLazyGraphModule):
    """A graph module whose code is generated when somebody reads or runs it.

    As torch's, which generates it more slowly: for as long as its generator works it gives every
    node another `__repr__`, which moves each node out of the graph's look-up table and in again,
    twice. Ours hides the table meanwhile. Measured by `make bench-passes`.
    """

    def _real_recompile(self) -> PythonCode:
        graph = self.graph
        table = graph._find_nodes_lookup_table
        graph._find_nodes_lookup_table = _Unchanging(table)  # type: ignore[assignment]
        try:
            return super()._real_recompile()
        finally:
            graph._find_nodes_lookup_table = table


class _Unchanging:
    """A look-up table for nodes that keep their places whatever is set on them.

    Args:
        table: The table that knows the nodes.
    """

    def __init__(self, table: Any) -> None:
        self._table = table

    def __contains__(self, node: Node) -> bool:
        """Say no, which lets a node that is changed stay where it is."""
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)
