"""Which nodes of a graph are computed in one go."""

from __future__ import annotations

import heapq
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .._torch.dispatch import HigherOrderOperator, OpOverload
from ..errors import UsageError


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
    graph_module: GraphModule,
    is_supported: Callable[[Node], bool],
    *,
    minimum: int = 1,
    taken: Sequence[Partition] = (),
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
        taken: Partitions that were chosen before; their nodes are not asked about, and no partition
            depends in a cycle on one of them either.

    Returns:
        The partitions, in an order in which they can run.
    """
    stages: dict[Node, int] = {}
    chosen: set[Node] = set()
    effect: tuple[Node, ...] = ()
    nodes = list(graph_module.graph.nodes)
    home = {node: each.nodes for each in taken for node in each.nodes}
    for node in reversed(in_order(nodes, taken) if taken else nodes):
        if node in stages or (node.target is operator.getitem and node not in home):
            continue  # It was decided on with its partition, or is with the operator it picks from.
        together = home.get(node) or (node, *_items(node))
        inside = set(together)
        followers = [user for each in together for user in each.users if user not in inside]
        if any(map(_has_effect, together)):
            followers.extend(effect)
            effect = together[:1]
        if node not in home and _can_be_chosen(node) and is_supported(node):
            chosen.update(together)
        stages.update(dict.fromkeys(together, _stage(node, followers, stages, chosen)))
    by_stage: dict[int, list[Node]] = {}
    for node in nodes:
        if node in chosen:
            by_stage.setdefault(stages[node], []).append(node)
    found = [Partition(tuple(by_stage[stage])) for stage in sorted(by_stage, reverse=True)]
    return tuple(each for each in found if each.size >= minimum)


def in_order(nodes: Sequence[Node], partitions: Sequence[Partition]) -> list[Node]:
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


def _can_be_chosen(node: Node) -> bool:
    return node.op == "call_function" and _yields_tensors(node)


def _yields_tensors(node: Node) -> bool:
    """Say whether what other nodes use of `node` are tensors and not tuples of tensors."""
    if not isinstance(node.meta.get("val"), (list, tuple)):
        return True
    return all(user.target is operator.getitem for user in node.users)
