"""Bases of passes that edit a graph, and of passes that build another one."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch.fx import GraphModule

from hopyard.pipeline._changes import first_change
from hopyard.verify import walk_graphs
from hopyard_hookspecs import PassResult


class InPlacePass(ABC):
    """A pass that edits graphs; :meth:`edit` is called for the graph and for each body in it.

    ::

        @dataclass(frozen=True)
        class SinToCos(InPlacePass):
            def edit(self, graph_module):
                found = graph_module.graph.find_nodes(op="call_function", target=aten.sin.default)
                for node in found:
                    node.target = aten.cos.default
                return bool(found)
    """

    @abstractmethod
    def edit(self, graph_module: GraphModule) -> bool:
        """Edit the nodes of one graph, and say whether any changed.

        Bodies of regions are edited on their own, before the graphs that call them.
        """

    def __call__(self, graph_module: GraphModule, /) -> PassResult:
        """Edit a graph and its regions in place."""
        modified = False
        for _, body in reversed(list(walk_graphs(graph_module))):
            if self.edit(body):
                body.recompile()
                modified = True
        return PassResult(graph_module, modified)


class FunctionalPass(ABC):
    """A pass that leaves the graph it is given as it is, and returns one; it may be the same."""

    @abstractmethod
    def transform(self, graph_module: GraphModule) -> GraphModule:
        """Return the graph that takes the place of `graph_module`."""

    def __call__(self, graph_module: GraphModule, /) -> PassResult:
        """Return the graph, and whether it computes anything in another way."""
        made = self.transform(graph_module)
        modified = made is not graph_module and bool(first_change(graph_module, made))
        return PassResult(made, modified)
