"""What a body does to memory that is not its own: what it writes to, and what its outputs share."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from hopyard_hookspecs import Hop

from .._torch.dispatch import HigherOrderOperator, OpOverload
from .._torch.pytree import tree_leaves

_Roots = frozenset[Node]


@dataclass(frozen=True, slots=True)
class Effects:
    """What a body does besides computing new outputs.

    Inputs are counted as the body's graph counts its placeholders, outputs as the leaves of what it
    returns.

    Attributes:
        written: The inputs that it changes in place.
        writes_constants: Whether it changes a tensor that is an attribute of its graph.
        same: The outputs that are an input as it was given, with that input.
        views: The outputs that may share memory with inputs without being one, with those inputs.
        shared: Pairs of outputs that may share memory with each other and with no input.
        random: Whether it draws random numbers, so that running it twice gives two results.
    """

    written: frozenset[int] = frozenset()
    writes_constants: bool = False
    same: tuple[tuple[int, int], ...] = ()
    views: tuple[tuple[int, frozenset[int]], ...] = ()
    shared: tuple[tuple[int, int], ...] = ()
    random: bool = False

    def renamed(self, inputs: Mapping[int, int], outputs: range) -> Effects:
        """Return the same for inputs of other numbers, as far as these outputs are concerned."""
        return Effects(
            frozenset(inputs[index] for index in self.written),
            self.writes_constants,
            tuple((index, inputs[place]) for index, place in self.same if index in outputs),
            tuple(
                (index, frozenset(inputs[place] for place in places))
                for index, places in self.views
                if index in outputs
            ),
            tuple(pair for pair in self.shared if pair[0] in outputs and pair[1] in outputs),
            self.random,
        )

    @property
    def is_functional(self) -> bool:
        """Whether it changes nothing and returns only what is new."""
        return not (self.written or self.writes_constants or self.same or self.is_aliasing)

    @property
    def is_aliasing(self) -> bool:
        """Whether outputs share memory in a way that a graph without views cannot tell."""
        return bool(self.views or self.shared)


def effects_of(graph_module: GraphModule) -> Effects:
    """Return what the operators of a graph do, by their schemas."""
    analysis = _Analysis(graph_module)
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    positions = {node: index for index, node in enumerate(placeholders)}
    outputs = [
        leaf if isinstance(leaf, Node) else None
        for leaf in tree_leaves(graph_module.graph.output_node().args[0])
    ]
    same, views, fresh = [], [], []
    for index, node in enumerate(outputs):
        if node is None or not analysis.is_memory(node):
            continue
        inputs = frozenset(positions[root] for root in analysis.roots[node] if root in positions)
        itself = analysis.itself(node)
        if itself in positions:
            same.append((index, positions[itself]))
        elif inputs:
            views.append((index, inputs))
        else:
            fresh.append((index, analysis.roots[node]))
    shared = [
        (one, other)
        for place, (other, roots) in enumerate(fresh)
        for one, others in fresh[:place]
        if roots & others
    ]
    written = analysis.written
    return Effects(
        written=frozenset(positions[root] for root in written if root in positions),
        writes_constants=any(root.op == "get_attr" for root in written),
        same=tuple(same),
        views=tuple(views),
        shared=tuple(shared),
        random=analysis.random,
    )


def effects_of_call(node: Node) -> Effects | None:
    """Return what a call of an operator of :mod:`hopyard.hops` does besides computing outputs.

    Inputs are the leaves of the operands; outputs are those of the body.

    Returns:
        What it does, or None for any other call and if the body is no graph, which may do anything.
    """
    if not isinstance(getattr(node.target, "definition", None), Hop):
        return None
    if node.target.definition.kind == "operator":  # type: ignore[union-attr]
        # Such a call is refused where it is recorded if it does more.
        return Effects()
    owner = node.graph.owning_module
    body = node.args[0] if node.args else None
    if owner is None or not _is_graph(owner, body):
        return None
    return effects_of(getattr(owner, str(body.target)))  # type: ignore[union-attr]


def may_write(graph_module: GraphModule) -> bool:
    """Say whether it takes a look at the operators of a graph to know that it writes to nothing."""
    return any(
        isinstance(node.target, HigherOrderOperator)
        or (isinstance(node.target, OpOverload) and node.target._schema.is_mutable)
        for node in graph_module.graph.nodes
    )


class _Analysis:
    """Follows memory through a graph.

    Attributes:
        roots: For each node, the nodes that its memory may come from.
        written: The roots whose memory is written to.
        random: Whether a node draws random numbers.
    """

    def __init__(self, graph_module: GraphModule) -> None:
        self._root = graph_module
        self.roots: dict[Node, _Roots] = {}
        self.written: set[Node] = set()
        self.random = False
        self._returned: dict[Node, Node] = {}
        for node in graph_module.graph.nodes:
            self.roots[node] = self._visit(node)

    def itself(self, node: Node) -> Node:
        """Return the node that first stood for a tensor that operators in place have returned."""
        while node in self._returned:
            node = self._returned[node]
        return node

    def is_memory(self, node: Node) -> bool:
        """Say whether a node stands for a tensor, or may do so."""
        value = node.meta.get("val")
        return value is None or isinstance(value, torch.Tensor)

    def _visit(self, node: Node) -> _Roots:
        if node.op != "call_function":
            return frozenset((node,))
        if node.target is operator.getitem:
            container = self.roots[node.all_input_nodes[0]]
            return frozenset((node,)) if container == {node.all_input_nodes[0]} else container
        if isinstance(node.target, OpOverload):
            return self._visit_operator(node, node.target)
        if isinstance(node.target, HigherOrderOperator):
            return self._visit_region(node)
        return frozenset((node,))

    def _visit_operator(self, node: Node, target: OpOverload) -> _Roots:
        self.random = self.random or torch.Tag.nondeterministic_seeded in target.tags
        aliased: set[Node] = set()
        for given, alias in _aliased_arguments(node, target):
            roots = frozenset().union(*(self.roots[each] for each in _nodes(given)))
            aliased |= roots
            if not alias.is_write:
                continue
            self.written |= roots
            if isinstance(given, Node) and torch.Tag.inplace_view not in target.tags:
                self._returned[node] = given
        # An operator with an out argument, or several returns, has items that are looked at.
        if len(target._schema.returns) != 1:
            self._returned.pop(node, None)
        returns_alias = any(each.alias_info is not None for each in target._schema.returns)
        return frozenset(aliased) if returns_alias and aliased else frozenset((node,))

    def _visit_region(self, node: Node) -> _Roots:
        """Look into the graphs that an operator carries; what they share, its outputs may share."""
        aliased: set[Node] = set()
        operands = [arg for arg in node.args if not _is_graph(self._root, arg)]
        flat = tree_leaves(operands)
        for body in _graphs(self._root, node):
            effects = effects_of(body)
            self.random = self.random or effects.random
            touched = {index for _, index in effects.same}
            touched |= {index for _, inputs in effects.views for index in inputs}
            for index in touched | effects.written:
                given = flat[index] if index < len(flat) else None
                roots = self.roots[given] if isinstance(given, Node) else frozenset()
                aliased |= roots if index in touched else frozenset()
                self.written |= roots if index in effects.written else frozenset()
        return frozenset(aliased) if aliased else frozenset((node,))


def _aliased_arguments(node: Node, target: OpOverload) -> Iterator[tuple[Any, Any]]:
    parameters = target._schema.arguments
    names = [parameter.name for parameter in parameters]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    for parameter in parameters:
        if parameter.alias_info is not None and parameter.name in given:
            yield given[parameter.name], parameter.alias_info


def _nodes(given: Any) -> list[Node]:
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Node)]


def _is_graph(root: GraphModule, value: Any) -> bool:
    if not (isinstance(value, Node) and value.op == "get_attr"):
        return False
    return isinstance(getattr(root, str(value.target), None), GraphModule)


def _graphs(root: GraphModule, node: Node) -> Iterator[GraphModule]:
    for given in node.all_input_nodes:
        if _is_graph(root, given):
            yield getattr(root, str(given.target))
