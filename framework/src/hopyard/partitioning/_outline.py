"""Partitions as graphs of their own, and calls in their places."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, GraphModule, Node
from torch.nn import Module

from .._graph_copy import copy_graph_module
from .._torch.graphs import make_graph_module
from ..errors import UsageError
from ._partition import Partition, in_order
from ._state import RANGES, STATE


@dataclass(frozen=True, slots=True)
class Subgraph:
    """A partition as a graph of its own.

    Attributes:
        partition: The partition.
        graph_module: Its graph; the placeholders are its inputs, the output is always a tuple.
        inputs: The nodes outside that the partition reads, in the order of the placeholders.
        outputs: The nodes of the partition that are read outside, in the order of the output.
    """

    partition: Partition
    graph_module: GraphModule
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """What replaces a partition: `target(module, *inputs)`, which returns a tuple.

    Attributes:
        target: An operator or function.
        module: Becomes an attribute of the graph module.
        name: What the attribute is called, with a number after it.
    """

    target: Callable[..., Any]
    module: Module
    name: str = "partition"


def outline(
    graph_module: GraphModule,
    partitions: Sequence[Partition],
    make_call: Callable[[Subgraph], Call],
) -> GraphModule:
    """Return a copy of a graph in which each partition is one call; see :func:`outline_together`.

    Args:
        graph_module: The graph; it is left as it is and shares its tensors with the copy.
        partitions: Partitions of this graph.
        make_call: Says what is called instead; asked once for each partition, in order.

    Raises:
        UsageError: Partitions overlap, are of another graph, or depend on each other in a cycle.
    """
    return outline_together(
        graph_module, partitions, lambda subgraphs: [make_call(each) for each in subgraphs]
    )


def outline_together(
    graph_module: GraphModule,
    partitions: Sequence[Partition],
    make_calls: Callable[[Sequence[Subgraph]], Sequence[Call]],
) -> GraphModule:
    """Return a copy of a graph in which each partition is one call.

    The call has the tuple of the outputs' values as `meta["val"]`; what picks them has the metadata
    of what it replaces.

    Args:
        graph_module: The graph; it is left as it is and shares its tensors with the copy.
        partitions: Partitions of this graph.
        make_calls: Says what is called instead of each; asked once, for all of them.

    Raises:
        UsageError: Partitions overlap, are of another graph, or depend on each other in a cycle.
    """
    outlined = copy_graph_module(graph_module)
    own = _transferred(partitions, graph_module, outlined)
    _gather(outlined.graph, own)
    ranges = graph_module.meta.get(RANGES, {})
    subgraphs = [_extract(each, ranges) for each in own]
    calls = make_calls(subgraphs)
    replaced: dict[Node, Node] = {}
    for subgraph, call in zip(subgraphs, calls, strict=True):
        _replace(outlined, subgraph, call, replaced)
    outlined.recompile()
    return outlined


def _transferred(
    partitions: Sequence[Partition], source: GraphModule, copy: GraphModule
) -> list[Partition]:
    """Return the same partitions of the copy of a graph, whose nodes have the same names."""
    by_name = {node.name: node for node in copy.graph.nodes}
    seen: set[Node] = set()
    for node in (node for each in partitions for node in each.nodes):
        if node in seen or node.graph is not source.graph:
            problem = "in two partitions" if node in seen else "of another graph"
            raise UsageError(f"the node {node.name} is {problem}", stage="outline")
        seen.add(node)
    return [Partition(tuple(by_name[node.name] for node in each.nodes)) for each in partitions]


def _gather(graph: Graph, partitions: Sequence[Partition]) -> None:
    """Reorder a graph so that the nodes of each partition follow each other."""
    order = in_order(list(graph.nodes), partitions)
    first = next(iter(graph.nodes))
    if order[0] is not first:
        first.prepend(order[0])
    for previous, node in itertools.pairwise(order):
        if previous.next is not node:
            previous.append(node)


def _extract(partition: Partition, ranges: Mapping[Any, Any]) -> Subgraph:
    graph = Graph()
    inside = set(partition.nodes)
    copies: dict[Node, Node] = {}
    inputs = dict.fromkeys(
        each for node in partition.nodes for each in node.all_input_nodes if each not in inside
    )
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = {
            key: node.meta[key] for key in ("val", "tensor_meta", STATE) if key in node.meta
        }
    for node in partition.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    outputs = [node for node in partition.nodes if not inside.issuperset(node.users)]
    output = graph.output(tuple(copies[node] for node in outputs))
    output.meta["val"] = tuple(node.meta.get("val") for node in outputs)
    graph_module = make_graph_module(Module(), graph, "Partition")
    graph_module.meta[RANGES] = ranges
    return Subgraph(partition, graph_module, tuple(inputs), tuple(outputs))


def _replace(
    graph_module: GraphModule, subgraph: Subgraph, call: Call, replaced: dict[Node, Node]
) -> None:
    """Put a call where a partition was; `replaced` collects what stands for the outputs then."""
    graph = graph_module.graph
    attribute = _attach(graph_module, call.module, call.name)
    with graph.inserting_after(subgraph.partition.nodes[-1]):
        module = graph.get_attr(attribute)
    operands = [replaced.get(node, node) for node in subgraph.inputs]
    with graph.inserting_after(module):
        result = graph.call_function(call.target, (module, *operands))
    result.meta["val"] = tuple(node.meta.get("val") for node in subgraph.outputs)
    previous = result
    for index, node in enumerate(subgraph.outputs):
        with graph.inserting_after(previous):
            previous = graph.call_function(operator.getitem, (result, index))
        previous.meta = dict(node.meta)
        node.replace_all_uses_with(previous)
        replaced[node] = previous
    for node in reversed(subgraph.partition.nodes):
        graph.erase_node(node)


def _attach(graph_module: GraphModule, module: Module, name: str) -> str:
    index = 0
    while hasattr(graph_module, f"{name}_{index}"):
        index += 1
    graph_module.add_module(f"{name}_{index}", module)
    return f"{name}_{index}"
