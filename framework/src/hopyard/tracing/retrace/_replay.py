"""Running a graph node by node."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch.fx import GraphModule, Interpreter, Node


class Replay(Interpreter):
    """Runs a graph, each node inside a context of its own.

    What nodes made meanwhile take over of the node that runs, `torch.fx.traceback` decides.

    Args:
        graph_module: The graph.
        around: Returns the context for a node.
    """

    def __init__(
        self, graph_module: GraphModule, around: Callable[[Node], AbstractContextManager[Any]]
    ) -> None:
        super().__init__(graph_module)
        self._around = around

    def run_node(self, n: Node) -> Any:
        """Run one node and return its value."""
        with self._around(n):
            return super().run_node(n)
