"""What regions of torch's operators are given: tensors and symbols that their bodies read.

Dynamo, which takes the bodies first, makes operands of sizes if it has seen a region with others,
and of tensors that have these sizes. Graphs would depend on what ran before the capture, and torch
accepts and saves none of that kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .._torch.dispatch import HigherOrderOperator

_WITH_OPERANDS_LAST = ("cond", "while_loop", "map_impl", "scan", "associative_scan")
"""Operators whose last argument is a sequence of operands: the last placeholders of each body."""


class _Call(NamedTuple):
    node: Node
    bodies: tuple[GraphModule, ...]

    @property
    def operands(self) -> tuple[Any, ...]:
        operands = self.node.args[-1]
        assert isinstance(operands, (tuple, list))
        return tuple(operands)

    def placeholders(self) -> list[tuple[Node, ...]]:
        """Return, for each operand, the placeholders that stand for it in the bodies."""
        count = len(self.operands)
        found = [body.graph.find_nodes(op="placeholder")[-count:] for body in self.bodies]
        return list(zip(*found, strict=True)) if count else []

    def keep(self, indices: Collection[int]) -> None:
        """Take away all other operands, which no body reads."""
        operands, placeholders = self.operands, self.placeholders()
        for index in set(range(len(operands))) - set(indices):
            for placeholder in placeholders[index]:
                placeholder.graph.erase_node(placeholder)
        kept = tuple(operands[index] for index in sorted(indices))
        is_list = isinstance(self.node.args[-1], list)
        self.node.args = (*self.node.args[:-1], list(kept) if is_list else kept)
        for body in self.bodies:
            body.recompile()


def spare_operands(graph_module: GraphModule) -> None:
    """Write numbers into the bodies of regions, and give regions no operand that is not read."""
    for call in list(_calls(graph_module)):
        placeholders = call.placeholders()
        for operand, inside in zip(call.operands, placeholders, strict=True):
            if isinstance(operand, int | float):
                for placeholder in inside:
                    _write(operand, placeholder)
        for body in call.bodies:
            spare_operands(body)
        read = [i for i, inside in enumerate(placeholders) if any(each.users for each in inside)]
        if len(read) < len(placeholders):
            call.keep(read)


def _calls(graph_module: GraphModule) -> Iterator[_Call]:
    """Yield the regions of a graph whose bodies nothing else calls."""
    readers = {
        node: body
        for node in graph_module.graph.find_nodes(op="get_attr")
        if isinstance(body := getattr(graph_module, str(node.target)), GraphModule)
    }
    uses = Counter(id(body) for node, body in readers.items() for _ in node.users)
    for node in graph_module.graph.nodes:
        if not isinstance(node.target, HigherOrderOperator):
            continue
        if node.target.name() not in _WITH_OPERANDS_LAST:
            continue
        bodies = tuple(readers[each] for each in node.args if each in readers)
        if all(uses[id(body)] == 1 for body in bodies):
            yield _Call(node, bodies)


def _write(number: float, placeholder: Node) -> None:
    """Let a body read a number where it reads a placeholder."""

    def written(node: Node) -> Any:
        return number if node is placeholder else node

    for user in list(placeholder.users):
        user.args = map_arg(user.args, written)
        user.kwargs = map_arg(user.kwargs, written)
