"""Where gradients go when somebody differentiates a recorded graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.nn import Module

from .._torch.dispatch import OpOverload

aten = torch.ops.aten

_STOPS = frozenset(
    getattr(aten, name)
    for name in (
        "detach",
        "detach_copy",
        "empty_like",
        "full_like",
        "new_empty",
        "new_empty_strided",
        "new_full",
        "new_ones",
        "new_zeros",
        "ones_like",
        "rand_like",
        "randint_like",
        "randn_like",
        "zeros_like",
    )
)
"""Operators whose results have floating-point operands and no gradient."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an operator does with memory and gradients.

    Attributes:
        stops: Whether no gradient passes it.
        aliases: Parameters whose memory the result is in, or that are written to: position, name,
            and either.
    """

    stops: bool
    aliases: tuple[tuple[int, str, bool, bool], ...]

    @classmethod
    def of(cls, target: Any) -> _Kind:
        """Read what is known of a target."""
        if not isinstance(target, OpOverload):
            is_item = getattr(target, "__name__", "") == "getitem"
            return cls(stops=False, aliases=((0, "", True, False),) if is_item else ())
        returned = {
            name
            for each in target._schema.returns
            if each.alias_info is not None
            for name in each.alias_info.before_set
        }
        aliases = tuple(
            (
                position,
                parameter.name,
                bool(returned & parameter.alias_info.before_set),
                parameter.alias_info.is_write,
            )
            for position, parameter in enumerate(target._schema.arguments)
            if parameter.alias_info is not None
        )
        return cls(target.overloadpacket in _STOPS, aliases)

    def aliased(self, node: Node) -> Iterator[tuple[Node, bool, bool]]:
        """Yield operands whose memory the result is in, or that are written to, and which."""
        for position, name, is_viewed, is_written in self.aliases:
            for each in _flat(_bound(node, position, name)):
                if isinstance(each, Node):
                    yield each, is_viewed, is_written


class GradientFlow:
    """Where gradients go when somebody differentiates a recorded graph.

    A graph knows no grad mode: every floating-point value that depends on an input has a gradient,
    whatever the program did about it. In-place operators and views are followed. What is asked for
    is found out then: most captures ask nothing, or about a few nodes.

    Args:
        graph: A graph as recorded, in-place operators included.
        constants: Names of the placeholders that have no gradient.
        root: The module that holds what the graph reads; parameters among that have gradients.
    """

    def __init__(
        self,
        graph: Graph,
        constants: frozenset[str] = frozenset(),
        root: Module | None = None,
    ) -> None:
        self._graph = graph
        self._root = root
        self._constants = constants
        # Operands of nodes that read memory which was written to before; others have their own.
        self._operands: dict[Node, list[Node]] = {}
        self._bases: dict[Node, Node] = {}
        self._viewed: dict[Node, Node] = {}
        self._writes: dict[Node, list[Node]] = {}
        self._depends: dict[Node, bool] = {}
        # Hashing an operator runs Python code, and schemas are slow to read.
        self._kinds: dict[int, _Kind] = {}
        self._follow()

    def carries(self, node: Node) -> bool:
        """Say whether a gradient passes through `node` on its way from a result to an input."""
        return self._depends_on_input(node) and node in self._arriving

    def viewed(self, node: Node) -> Node | None:
        """Return the operand whose memory the value of `node` is in, if it is in one's."""
        return self._viewed.get(node)

    def base(self, node: Node) -> Node:
        """Return the node in whose memory the value of `node` is; itself if that is its own."""
        return self._bases.get(node, node)

    def writes(self, node: Node) -> list[Node]:
        """Return the in-place operators that change the memory of `node`, in order."""
        return self._writes.get(self.base(node), [])

    def operands(self, node: Node) -> list[Node]:
        """Return what the value of `node` depends on: its operands, and who wrote to them last."""
        return self._operands.get(node) or node.all_input_nodes

    def _follow(self) -> None:
        """Find views and writes, and the operands of what reads memory that was written to."""
        for node in self._graph.nodes:
            if self._writes:
                operands = node.all_input_nodes
                bases = {self.base(operand) for operand in operands}
                written = [self._writes[base][-1] for base in bases if base in self._writes]
                if written:
                    self._operands[node] = [*operands, *written]
            for operand, is_viewed, is_written in self._kind(node).aliased(node):
                base = self.base(operand)
                if is_written:
                    self._writes.setdefault(base, []).append(node)
                if is_viewed and node not in self._viewed:
                    self._viewed[node] = operand
                    self._bases[node] = base

    def _kind(self, node: Node) -> _Kind:
        kind = self._kinds.get(id(node.target))
        if kind is None:
            kind = self._kinds[id(node.target)] = _Kind.of(node.target)
        return kind

    def _is_differentiable(self, node: Node) -> bool:
        return not self._kind(node).stops and _has_gradient(node)

    def _depends_on_input(self, node: Node) -> bool:
        """Say whether the value of `node` has a gradient with respect to an input."""
        known = self._depends
        stack = [node]
        while stack:
            each = stack[-1]
            if each in known:
                stack.pop()
                continue
            if each.op == "placeholder":
                known[each] = each.name not in self._constants and _has_gradient(each)
            elif each.op == "get_attr":
                held = getattr(self._root, str(each.target), None)
                known[each] = bool(getattr(held, "requires_grad", False))
            elif not self._is_differentiable(each):
                known[each] = False
            else:
                operands = self.operands(each)
                missing = [operand for operand in operands if operand not in known]
                if missing and not any(known.get(operand) for operand in operands):
                    stack += missing
                    continue
                known[each] = any(known.get(operand) for operand in operands)
        return known[node]

    @cached_property
    def _arriving(self) -> set[Node]:
        """What a result has a gradient with respect to."""
        arriving: set[Node] = set()
        for node in reversed(self._graph.nodes):
            if node.op == "output":
                arriving.update(each for each in self.operands(node) if _has_gradient(each))
            elif node in arriving and self._is_differentiable(node):
                arriving.update(self.operands(node))
        return arriving


def _has_gradient(node: Node) -> bool:
    value = node.meta.get("val")
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, (list, tuple, dict))
    return bool(dtype.is_floating_point or dtype.is_complex)


def _bound(node: Node, position: int, name: str) -> object:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)


def _flat(value: object) -> Iterable[object]:
    return value if isinstance(value, (list, tuple)) else (value,)
