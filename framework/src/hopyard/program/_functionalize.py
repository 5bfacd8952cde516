"""Removing in-place operations from a traced graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from .._torch.exporting import rebind_unbacked
from ..tracing import Placeholder, Tracer, TracingOptions, UserTraces
from ._hidden_writes import declare_writes
from ._plain_writes import is_write, remove_plain_writes


def written_nodes(graph_module: GraphModule) -> Iterator[tuple[str, Node]]:
    """Yield the nodes that change a tensor in place, with the name of the region they are in."""
    for name, module in graph_module.named_modules():
        if not isinstance(module, GraphModule):
            continue
        for node in module.graph.nodes:
            if is_write(node):
                yield name, node


def functionalize(graph_module: GraphModule, options: TracingOptions) -> GraphModule:
    """Return an equivalent graph in which only inputs are written, at the end and by `copy_`.

    Most graphs have no in-place operations, or only such that can be taken out of the graph as it
    is. What is left is replayed, with gradients off, since it is below autograd already: user code
    is not run again.
    """
    declare_writes(graph_module)
    regions = {region for region, _ in written_nodes(graph_module)}
    if not regions:
        return graph_module
    # Autograd detaches what it would save: views that nobody looks at.
    graph_module.graph.eliminate_dead_code()
    assert options.fake_mode is not None
    if regions == {""} and remove_plain_writes(
        graph_module, options.fake_mode, options.decompositions
    ):
        return graph_module
    nodes = graph_module.graph.find_nodes(op="placeholder")
    placeholders = [Placeholder(str(node.target), node.args) for node in nodes]
    interpreter = _Replay(graph_module, options)

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
    _rename_symbols(pure, options)
    return pure


def _rename_symbols(graph_module: GraphModule, options: TracingOptions) -> None:
    """Let nodes bind the symbols that the metadata of other nodes speaks of."""
    shape_env = None if options.fake_mode is None else options.fake_mode.shape_env
    if shape_env is None or not shape_env.unbacked_renamings:
        return
    for node in graph_module.graph.nodes:
        bindings = node.meta.get("unbacked_bindings", {})
        if bindings:
            renamed = {
                shape_env.unbacked_renamings.get(key, key): bindings[key] for key in bindings
            }
            node.meta["unbacked_bindings"] = renamed


class _Replay(Interpreter):
    """Runs a graph.

    What is recorded meanwhile keeps the source lines of the node that runs, and numbers that are
    only known when the program runs are the ones they were.
    """

    def __init__(self, graph_module: GraphModule, options: TracingOptions) -> None:
        super().__init__(graph_module)
        traces = options.stack_traces
        self._stack_traces = traces if isinstance(traces, UserTraces) else None
        self._shape_env = None if options.fake_mode is None else options.fake_mode.shape_env

    def run_node(self, n: Node) -> Any:
        if self._stack_traces is not None:
            self._stack_traces.inherited = n.meta.get("stack_trace", "")
        try:
            result = super().run_node(n)
        finally:
            if self._stack_traces is not None:
                self._stack_traces.inherited = None
        if "unbacked_bindings" in n.meta:
            rebind_unbacked(self._shape_env, n, result)
        return result
