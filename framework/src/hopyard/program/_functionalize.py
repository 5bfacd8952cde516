"""Removing in-place operations from a traced graph."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from .._torch.exporting import rebind_unbacked
from .._torch.functional import call_below
from .._torch.objects import call_method
from ..errors import UnsupportedError
from ..tracing import Placeholder, Tracer, TracingOptions, node_location
from ._hidden_writes import declare_writes
from ._plain_writes import remove_plain_writes
from ._pure_forms import is_write
from ._writes_above_autograd import remove_writes_above_autograd

aten = torch.ops.aten


def written_nodes(graph_module: GraphModule) -> Iterator[tuple[str, Node]]:
    """Yield the nodes that change a tensor in place, with the name of the region they are in."""
    for name, module in graph_module.named_modules():
        if not isinstance(module, GraphModule):
            continue
        for node in module.graph.nodes:
            if is_write(node):
                yield name, node


def functionalize(
    graph_module: GraphModule,
    options: TracingOptions,
    without_gradients: Collection[str] = (),
) -> GraphModule:
    """Return an equivalent graph in which only inputs are written, at the end and by `copy_`.

    Most graphs have no in-place operations, or only such that can be taken out of the graph as it
    is. What is left is replayed, with gradients off, since it is below autograd already: user code
    is not run again.

    Args:
        graph_module: The graph, which may be changed.
        options: How it was traced.
        without_gradients: The placeholders that no gradient ever flows from.

    Raises:
        UnsupportedError: A graph above autograd writes in a way that no pure one can express.
    """
    declare_writes(graph_module)
    _leave_constants_attached(graph_module)
    regions = {region for region, _ in written_nodes(graph_module)}
    if not regions:
        return graph_module
    # Autograd detaches what it would save: views that nobody looks at.
    graph_module.graph.eliminate_dead_code()
    assert options.fake_mode is not None
    if options.pre_dispatch:
        if regions != {""}:
            _refuse_in_regions(graph_module)
        remove_writes_above_autograd(
            graph_module, options.fake_mode, options.decompositions, without_gradients
        )
        return graph_module
    if regions == {""} and remove_plain_writes(
        graph_module, options.fake_mode, options.decompositions
    ):
        return graph_module
    nodes = graph_module.graph.find_nodes(op="placeholder")
    placeholders = [Placeholder(str(node.target), node.args) for node in nodes]
    # Nodes take over where they come from; the modules of the program are not called again.
    tracer = Tracer(dataclasses.replace(options, stack_traces=None, module_paths=None))
    interpreter = _Replay(graph_module, tracer)

    def replay(*values: Any) -> Any:
        return interpreter.run(*values, enable_io_processing=False)

    function = torch.func.functionalize(replay, remove="mutations")
    with torch.no_grad():
        pure: GraphModule = tracer.trace(
            function,
            [node.meta.get("val") for node in nodes],
            placeholders,
            type(graph_module).__name__,
        )
    _rename_symbols(pure, options)
    return pure


def _leave_constants_attached(graph_module: GraphModule) -> None:
    """Drop what `torch.tensor` does above autograd to detach a tensor that is new."""
    for node in graph_module.graph.find_nodes(op="call_function", target=aten.detach_.default):
        constant = node.args[0]
        if isinstance(constant, Node) and constant.target is aten.lift_fresh_copy.default:
            node.replace_all_uses_with(constant)
            graph_module.graph.erase_node(node)


def _refuse_in_regions(graph_module: GraphModule) -> None:
    region, node = next((region, node) for region, node in written_nodes(graph_module) if region)
    raise UnsupportedError(
        f"region {region} changes {node.args[0]} in place with {node.target}, which a pure graph "
        "above autograd cannot express",
        hint="return new values instead of writing them, or capture without pre_dispatch",
        stage="capture",
        location=node_location(node),
    )


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


_ORIGIN = ("stack_trace", "nn_module_stack", "torch_fn")


class _Replay(Interpreter):
    """Runs a graph.

    What is recorded meanwhile keeps the source lines and modules of the node that runs, and numbers
    that are only known when the program runs are the ones they were.
    """

    def __init__(self, graph_module: GraphModule, tracer: Tracer) -> None:
        super().__init__(graph_module)
        self._recorded = tracer.recorder.graph.nodes
        self._shape_env = tracer.shape_env

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # torch's rule for methods of objects wants another way of functionalization.
        if target is call_method:
            return call_below(target, *args, **kwargs)
        return super().call_function(target, args, kwargs)

    def run_node(self, n: Node) -> Any:
        last = next(iter(reversed(self._recorded)), None)
        result = super().run_node(n)
        origin = {key: n.meta[key] for key in _ORIGIN if key in n.meta}
        for node in itertools.takewhile(lambda each: each is not last, reversed(self._recorded)):
            if node.op != "placeholder":
                node.meta.update(origin)
        if "unbacked_bindings" in n.meta:
            rebind_unbacked(self._shape_env, n, result)
        return result
