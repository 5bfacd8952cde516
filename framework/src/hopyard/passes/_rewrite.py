"""Rewriting what matches a pattern."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.utils.matcher_utils import InternalMatch, SubgraphMatcher

from hopyard.errors import PassError, UsageError
from hopyard.operators import HigherOrderOperator, OpOverload
from hopyard.pipeline import derive_metadata
from hopyard.tracing import node_location
from hopyard.verify._difference import difference

from ._bases import InPlacePass
from ._metadata import refresh_values


@dataclass(frozen=True, slots=True)
class Match:
    """Nodes of a graph that match a pattern.

    Attributes:
        inputs: What stands for the pattern's parameters, by name: nodes, or plain values.
        nodes: What stands for the calls in the pattern, in the order in which the pattern has them.
        results: What stands for what the pattern returns.
    """

    inputs: Mapping[str, Any]
    nodes: tuple[Node, ...]
    results: tuple[Node, ...]


@dataclass(frozen=True)
class Rewrite(InPlacePass):
    """A pass that replaces what matches a pattern, in the graph and in bodies of regions.

    Pattern and replacement are functions with the same parameters that call operators::

        Rewrite(
            lambda x: aten.relu.default(aten.relu.default(x)),
            lambda x: aten.relu.default(x),
        )

    Parameters stand for any value. Literals match literals of the same type and value; arguments
    that are left out match their defaults. A match is left alone if something else uses one of its
    inner values, or if an operator that writes to a tensor stands between its nodes. The new nodes
    are known to be made from all nodes of the match, and their values are computed.

    torch's matcher has limits: two parameters cannot stand for one node, and a pattern that returns
    several values must be connected.

    Args:
        pattern: What to replace.
        replacement: What to replace it by. It must return values of the shapes and types that the
            pattern does.
        where: Which matches to replace; all by default.

    Raises:
        UsageError: Pattern or replacement call something else than operators, or they do not have
            the same parameters.
    """

    pattern: Callable[..., Any]
    replacement: Callable[..., Any]
    where: Callable[[Match], bool] | None = None

    def __post_init__(self) -> None:
        names, others = (_parameters(graph) for graph in (self._pattern, self._replacement))
        if len(names) != len(others):
            raise UsageError(
                f"the replacement takes {others}, and the pattern {names}",
                hint="give both the same parameters",
                stage="rewrite",
            )

    def edit(self, graph_module: GraphModule) -> bool:
        """Replace what matches in one graph."""
        graph = graph_module.graph
        positions = {node: position for position, node in enumerate(graph.nodes)}
        writes = [positions[node] for node in graph.nodes if _writes(node)]
        replaced: dict[Node, Node] = {}
        made: list[Node] = []
        for found in self._matches(graph):
            match = _match(found, self._pattern, replaced)
            span = [positions[node] for node in match.nodes]
            is_interrupted = any(min(span) < write < max(span) for write in writes)
            is_used_before = any(
                positions.get(user, len(positions)) < max(span)
                for result in match.results
                for user in result.users
                if user not in match.nodes
            )
            if is_interrupted or is_used_before or (self.where and not self.where(match)):
                continue
            made += self._replace(graph, match, positions, replaced)
        refresh_values(graph_module, made)
        for node, new in replaced.items():
            _check_result(node, new)
        return bool(made) or bool(replaced)

    @cached_property
    def _pattern(self) -> Graph:
        return _traced(self.pattern, "pattern")

    @cached_property
    def _replacement(self) -> Graph:
        return _traced(self.replacement, "replacement")

    def _matches(self, graph: Graph) -> list[InternalMatch]:
        matcher = SubgraphMatcher(self._pattern, remove_overlapping_matches=True)
        try:
            return matcher.match(graph)
        except KeyError:
            # The matcher fails if nothing in the graph is like one of several results.
            return []

    def _replace(
        self,
        graph: Graph,
        match: Match,
        positions: Mapping[Node, int],
        replaced: dict[Node, Node],
    ) -> list[Node]:
        placeholders = self._replacement.find_nodes(op="placeholder")
        copies: dict[Node, Any] = dict(zip(placeholders, match.inputs.values(), strict=True))
        last = max(match.nodes, key=positions.__getitem__)
        with graph.inserting_before(last.next):
            results = graph.graph_copy(self._replacement, copies)
        made = [copies[node] for node in self._replacement.nodes if node.op == "call_function"]
        in_order = sorted(match.nodes, key=positions.__getitem__)
        for node in made:
            derive_metadata(node, in_order)
            # What they compute is computed when all are there.
            for key in ("val", "unbacked_bindings"):
                node.meta.pop(key, None)
        values = results if isinstance(results, (tuple, list)) else (results,)
        if len(values) != len(match.results):
            raise UsageError(
                f"the replacement returns {len(values)} values, and the pattern "
                f"{len(match.results)}",
                stage="rewrite",
            )
        for old, new in zip(match.results, values, strict=True):
            old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in match.nodes)
            replaced[old] = new
        for node in reversed(in_order):
            graph.erase_node(node)
        return made


def _traced(function: Callable[..., Any], what: str) -> Graph:
    graph = torch.fx.symbolic_trace(function).graph
    for node in graph.nodes:
        is_call = node.op == "call_function"
        known = isinstance(node.target, (OpOverload, HigherOrderOperator))
        if node.op in ("placeholder", "output") or (
            is_call and (known or node.target is operator.getitem)
        ):
            continue
        raise UsageError(
            f"the {what} has {node.format_node()}, which is no call of an operator",
            hint="call overloads, such as torch.ops.aten.relu.default(x)",
            stage="rewrite",
        )
    unused = [node.name for node in graph.find_nodes(op="placeholder") if not node.users]
    if what == "pattern" and unused:
        raise UsageError(f"the pattern does not use its parameter {unused[0]!r}", stage="rewrite")
    return graph


def _parameters(graph: Graph) -> list[str]:
    return [str(node.target) for node in graph.find_nodes(op="placeholder")]


def _match(found: InternalMatch, pattern: Graph, replaced: Mapping[Node, Node]) -> Match:
    def current(value: Any) -> Any:
        return replaced.get(value, value) if isinstance(value, Node) else value

    values = map(current, found.placeholder_nodes)
    inputs = dict(zip(_parameters(pattern), values, strict=True))
    calls = [node for node in pattern.nodes if node.op == "call_function"]
    nodes = tuple(found.nodes_map[node] for node in calls)
    return Match(inputs, nodes, tuple(found.returning_nodes))


def _writes(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _check_result(old: Node, new: Node) -> None:
    problem = difference(old.meta.get("val"), _value(new), strides=False)
    if problem:
        raise PassError(
            f"what replaces node {old.name!r} is not like it: "
            f"{problem.replace('it says', 'the node is').replace('is true', 'its replacement')}",
            hint="let the replacement return what the pattern does, or restrict it with where",
            stage="rewrite",
            node=old.name,
            location=node_location(old),
        )


def _value(new: Any) -> Any:
    return new.meta.get("val") if isinstance(new, Node) else new
