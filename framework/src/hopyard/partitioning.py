"""Partitions: nodes of a graph that are computed in one go, and their replacement by one call.

:func:`partition` chooses the nodes, :func:`outline` makes each partition a graph of its own and
replaces it by a call of what becomes of that graph::

    partitions = partition(program.graph_module, lambda node: node.target in SUPPORTED)
    outlined = outline(
        program.graph_module, partitions, lambda subgraph: Call(run, lower(subgraph.graph_module))
    )

The graph has to be functional, as a program's is. Replacing a partition moves nodes; operators that
draw random numbers or have other effects keep their order, so that a seed gives the same numbers
as before.
"""

from __future__ import annotations

import heapq
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.nn import Module

from ._graph_copy import copy_graph_module
from ._torch.dispatch import HigherOrderOperator, OpOverload
from ._torch.graphs import make_graph_module
from .errors import UsageError


@dataclass(frozen=True, slots=True)
class Partition:
    """Nodes that can be computed together.

    Attributes:
        nodes: The nodes, in the order of the graph.
    """

    nodes: tuple[Node, ...]

    @property
    def size(self) -> int:
        """The number of operators; picking an output of one does not count."""
        return sum(node.target is not operator.getitem for node in self.nodes)


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


def changes_operands(node: Node) -> bool:
    """Say whether `node` calls an operator that writes to an operand."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def draws_random_numbers(node: Node) -> bool:
    """Say whether `node` calls an operator whose result depends on a random generator.

    An attention operator does not if its dropout is 0.
    """
    target = node.target
    if not isinstance(target, OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    return bool(_argument(node, target, "dropout_p") != 0)


def partition(
    graph_module: GraphModule, is_supported: Callable[[Node], bool], *, minimum: int = 1
) -> tuple[Partition, ...]:
    """Group the supported nodes of a graph into as few partitions as its dependencies allow.

    No partition depends on itself through what is outside, and no two on each other. A node that
    several partitions could take is in the last of them, next to what uses it. Picking an output of
    an operator (`operator.getitem`) belongs to the operator. The time taken is proportional to the
    size of the graph.

    Args:
        graph_module: A functional graph; it is left as it is.
        is_supported: Called once for each `call_function` node that is no `operator.getitem`.
        minimum: Partitions with fewer operators are left out.

    Returns:
        The partitions, in an order in which they can run.
    """
    stages: dict[Node, int] = {}
    chosen: set[Node] = set()
    effect: Node | None = None
    for node in reversed(graph_module.graph.nodes):
        if node.target is operator.getitem:
            continue  # It is decided on with the operator that it picks from.
        together = (node, *_items(node))
        followers = [user for each in together for user in each.users if user not in together]
        if _has_effect(node):
            followers += [effect] if effect is not None else []
            effect = node
        if node.op == "call_function" and _yields_tensors(node) and is_supported(node):
            chosen.update(together)
        stages.update(dict.fromkeys(together, _stage(node, followers, stages, chosen)))
    by_stage: dict[int, list[Node]] = {}
    for node in graph_module.graph.nodes:
        if node in chosen:
            by_stage.setdefault(stages[node], []).append(node)
    found = [Partition(tuple(by_stage[stage])) for stage in sorted(by_stage, reverse=True)]
    return tuple(each for each in found if each.size >= minimum)


def outline(
    graph_module: GraphModule,
    partitions: Sequence[Partition],
    make_call: Callable[[Subgraph], Call],
) -> GraphModule:
    """Return a copy of a graph in which each partition is one call.

    The call has the tuple of the outputs' values as `meta["val"]`; what picks them has the metadata
    of what it replaces.

    Args:
        graph_module: The graph; it is left as it is and shares its tensors with the copy.
        partitions: Partitions of this graph.
        make_call: Says what is called instead; asked once for each partition, in order.

    Raises:
        UsageError: Partitions overlap, are of another graph, or depend on each other in a cycle.
    """
    outlined = copy_graph_module(graph_module)
    own = _transferred(partitions, graph_module, outlined)
    _gather(outlined.graph, own)
    subgraphs = [_extract(each) for each in own]
    calls = [make_call(subgraph) for subgraph in subgraphs]
    replaced: dict[Node, Node] = {}
    for subgraph, call in zip(subgraphs, calls, strict=True):
        _replace(outlined, subgraph, call, replaced)
    outlined.recompile()
    return outlined


def _stage(
    node: Node, followers: Iterable[Node], stages: dict[Node, int], chosen: set[Node]
) -> int:
    """Return the length of the longest chain of partitions after `node`, its own not counted.

    The chosen nodes of one stage are a partition. Stages never rise along a dependency, and they
    fall from a node outside to a partition that reads it, so there is no way back into a partition
    that was left.
    """
    inside = node in chosen
    return max((stages[each] + (each in chosen and not inside) for each in followers), default=0)


def _items(node: Node) -> list[Node]:
    """Return the nodes that pick an output of `node`, and an output of an output."""
    direct = [user for user in node.users if user.target is operator.getitem]
    return [item for user in direct for item in (user, *_items(user))]


def _argument(node: Node, target: OpOverload, name: str) -> Any:
    """Return the argument that `node` calls `target` with, or None if it has no such parameter."""
    for index, parameter in enumerate(target._schema.arguments):
        if parameter.name == name:
            given = node.args[index] if index < len(node.args) else parameter.default_value
            return node.kwargs.get(name, given)
    return None


def _has_effect(node: Node) -> bool:
    if isinstance(node.target, HigherOrderOperator):
        return True  # Nobody knows what its body does.
    return draws_random_numbers(node) or changes_operands(node)


def _yields_tensors(node: Node) -> bool:
    """Say whether what other nodes use of `node` are tensors and not tuples of tensors."""
    if not isinstance(node.meta.get("val"), (list, tuple)):
        return True
    return all(user.target is operator.getitem for user in node.users)


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
    order = _order(list(graph.nodes), partitions)
    first = next(iter(graph.nodes))
    if order[0] is not first:
        first.prepend(order[0])
    for previous, node in itertools.pairwise(order):
        if previous.next is not node:
            previous.append(node)


def _order(nodes: Sequence[Node], partitions: Sequence[Partition]) -> list[Node]:
    """Sort nodes by dependency, each partition as if it were one, else as they are now."""
    # A partition takes the place of its last node; until then its inputs may still be computed.
    unit_of = {node: each.nodes[-1] for each in partitions for node in each.nodes}
    members = {each.nodes[-1]: each.nodes for each in partitions}
    position = {node: index for index, node in enumerate(nodes)}
    needs: dict[Node, set[Node]] = {unit_of.get(node, node): set() for node in nodes}
    followers: dict[Node, list[Node]] = {unit: [] for unit in needs}
    effect: Node | None = None
    for node in nodes:
        earlier = list(node.all_input_nodes)
        if _has_effect(node):
            earlier += [effect] if effect is not None else []
            effect = node
        unit = unit_of.get(node, node)
        needs[unit].update(unit_of.get(each, each) for each in earlier)
        needs[unit].discard(unit)
    for unit, needed in needs.items():
        for each in needed:
            followers[each].append(unit)
    ready = [(position[unit], unit) for unit, needed in needs.items() if not needed]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        _, unit = heapq.heappop(ready)
        order.extend(members.get(unit, (unit,)))
        for each in followers[unit]:
            needs[each].discard(unit)
            if not needs[each]:
                heapq.heappush(ready, (position[each], each))
    if len(order) < len(nodes):
        raise UsageError(
            "the partitions depend on each other in a cycle",
            hint="choose them with hopyard.partitioning.partition",
            stage="outline",
        )
    return order


def _extract(partition: Partition) -> Subgraph:
    graph = Graph()
    inside = set(partition.nodes)
    copies: dict[Node, Node] = {}
    inputs = dict.fromkeys(
        each for node in partition.nodes for each in node.all_input_nodes if each not in inside
    )
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = {
            key: node.meta[key] for key in ("val", "tensor_meta") if key in node.meta
        }
    for node in partition.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    outputs = [node for node in partition.nodes if not inside.issuperset(node.users)]
    output = graph.output(tuple(copies[node] for node in outputs))
    output.meta["val"] = tuple(node.meta.get("val") for node in outputs)
    graph_module = make_graph_module(Module(), graph, "Partition")
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
