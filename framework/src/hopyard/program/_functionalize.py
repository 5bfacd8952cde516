"""Removing in-place operations from a traced graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from .._torch.dispatch import OpOverload
from ..tracing import Placeholder, StackTraces, Tracer, TracingOptions, UserTraces


def written_nodes(graph_module: GraphModule) -> Iterator[tuple[str, Node]]:
    """Yield the nodes that change a tensor in place, with the name of the region they are in."""
    for name, module in graph_module.named_modules():
        if not isinstance(module, GraphModule):
            continue
        for node in module.graph.nodes:
            if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
                yield name, node


def functionalize(graph_module: GraphModule, options: TracingOptions) -> GraphModule:
    """Return an equivalent graph in which only inputs are written, at the end and by `copy_`.

    A graph without in-place operations, as most are, is returned as it is. User code is not run
    again: the graph is replayed, with gradients off, since it is below autograd already.
    """
    if next(written_nodes(graph_module), None) is None:
        return graph_module
    nodes = graph_module.graph.find_nodes(op="placeholder")
    placeholders = [Placeholder(str(node.target), node.args) for node in nodes]
    interpreter = _Replay(graph_module, options.stack_traces)

    def replay(*values: Any) -> Any:
        return interpreter.run(*values, enable_io_processing=False)

    function = torch.func.functionalize(replay, remove="mutations")
    with torch.no_grad():
        pure: GraphModule = Tracer(options).trace(
            function,
            [node.meta.get("val") for node in nodes],
            placeholders,
            type(graph_module).__name__,
        )
    return pure


class _Replay(Interpreter):
    """Runs a graph; what is recorded meanwhile keeps the source lines of the node that runs."""

    def __init__(self, graph_module: GraphModule, stack_traces: StackTraces | None) -> None:
        super().__init__(graph_module)
        self._stack_traces = stack_traces

    def run_node(self, n: Node) -> Any:
        if not isinstance(self._stack_traces, UserTraces):
            return super().run_node(n)
        self._stack_traces.inherited = n.meta.get("stack_trace", "")
        try:
            return super().run_node(n)
        finally:
            self._stack_traces.inherited = None
