"""A tracer that adds to a graph which exists already."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch.fx import Graph, Node
from torch.nn import Module

from ..._torch.fake import FakeTensorMode
from .._mode import DecompositionTable
from .._tracer import Tracer, TracingOptions, suspended
from ._attributes import assign_attribute


class GraphAppender:
    """Adds to a graph what a program does.

    ::

        graph = torch.fx.Graph()
        appender = GraphAppender(graph)
        with appender.recording():
            x = torch.ones(3)
            appender.placeholder("x", x)
            appender.output(x.sin() + 1)
        torch.fx.GraphModule(appender.root, graph)

    Nodes are added where the graph inserts nodes when the appender is made: at the end, or where
    `graph.inserting_before(...)` says. Names are numbered on from those that the graph has.

    Args:
        graph: The graph.
        root: The module that owns what the graph reads. Tensors that the program closes over and
            bodies of regions become attributes of it. A new module by default.
        decomposition_table: Operators to record as what they decompose into.
        fake_mode: Computes the values of the program, if they are fake.

    Attributes:
        graph: As given.
        root: As given, or the new module.
    """

    def __init__(
        self,
        graph: Graph,
        root: Module | None = None,
        *,
        decomposition_table: DecompositionTable | None = None,
        fake_mode: FakeTensorMode | None = None,
    ) -> None:
        self.graph = graph
        self.root = Module() if root is None else root
        options = TracingOptions(
            "real" if fake_mode is None else "fake", fake_mode, dict(decomposition_table or {})
        )
        self._tracer = Tracer(options, graph=graph, root=self.root)

    @contextmanager
    def recording(self) -> Generator[None, None, None]:
        """Record what this thread does. Afterwards the nodes of values are forgotten.

        Raises:
            CaptureError: The program raised, or did something that a graph cannot hold. Nodes that
                were added stay in the graph.
        """
        with self._tracer.recording():
            yield

    def placeholder(self, name: str, value: Any, default: tuple[Any, ...] = ()) -> Node:
        """Add an input that stands for `value`. `default` holds its default value, if any."""
        with suspended():
            return self._tracer.recorder.placeholder(name, value, default)

    def read(self, target: str, value: Any) -> Node:
        """Add the read of an attribute, which becomes `value`, and let it stand for `value`."""
        assign_attribute(self.root, target, value)
        with suspended():
            return self._tracer.recorder.read(target, value)

    def track(self, value: Any, node: Node) -> None:
        """Let a node of the graph stand for a value, and describe the value on it."""
        with suspended():
            self._tracer.track(value, node)

    def output(self, value: Any) -> Node:
        """Close the graph with what stands for a value, and for the values in a container."""
        return self._tracer.recorder.output(value)
