"""Which pass made a node, and from which nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.fx import Graph, GraphModule, Node

from hopyard._torch.pytree import tree_leaves
from hopyard.verify import walk_graphs
from hopyard_hookspecs import Origin, PassStep

_FROM = "hopyard_from"
"""While a pass runs, the key under which nodes tell which nodes of the given graph they stand for.

A node that a pass makes with the metadata of another tells that other node.
"""


def origin_of(node: Node) -> Origin | None:
    """Return which pass made a node; None if it is there since the program was captured."""
    found = node.meta.get(Origin.KEY)
    return found if isinstance(found, Origin) else None


def derive_metadata(node: Node, sources: Iterable[Node]) -> None:
    """Give a new node the metadata of the nodes that it replaces.

    It takes over what the last of them computes, the source line and modules of the last that tell
    them, and is known to be made from all of them. Where it computes something else than the last,
    set `meta["val"]` afterwards.

    Args:
        node: The new node.
        sources: What it replaces, in the order of the graph.
    """
    sources = list(sources)
    for source in sources:
        kept = source.meta if source is sources[-1] else _provenance(source.meta)
        node.meta.update(kept)
    names = dict.fromkeys(name for source in sources for name in source.meta.get(_FROM, ()))
    if names:
        node.meta[_FROM] = tuple(names)


def label_nodes(graph_module: GraphModule) -> None:
    """Let each node tell its name for as long as a pass runs."""
    for _, body in walk_graphs(graph_module):
        for node in body.graph.nodes:
            node.meta[_FROM] = (node.name,)


def separate_metadata(graph_module: GraphModule) -> None:
    """Give each node metadata of its own, where a pass let several nodes share a dictionary."""
    seen: set[int] = set()
    for _, body in walk_graphs(graph_module):
        for node in body.graph.nodes:
            if id(node.meta) in seen:
                node.meta = dict(node.meta)
            seen.add(id(node.meta))


def mark_new_nodes(before: GraphModule, after: GraphModule, step: PassStep) -> None:
    """Note in the metadata of each node that was not there before what made it, and end labels.

    A node was there if one of that name had that target, so a pass that rebuilds the whole graph
    is the origin only of what it changed. A node without a label was made from what its users used
    in its place before.
    """
    graphs_before = dict(walk_graphs(before))
    for path, graph_module in walk_graphs(after):
        earlier = graphs_before.get(path)
        known = {node.name: node for node in earlier.graph.nodes} if earlier is not None else {}
        _mark(graph_module.graph, known, step)


def _mark(graph: Graph, known: dict[str, Node], step: PassStep) -> None:
    sources: dict[Node, tuple[str, ...]] = {}
    new = []
    for node in reversed(graph.nodes):
        label = node.meta.pop(_FROM, ())
        if not _is_known(known.get(node.name), node):
            sources[node] = label or _replaced(node, known, sources)
            new.append(node)
    for node in new:
        names = tuple(name for name in sources[node] if name in known)
        origins = [origin_of(known[name]) for name in names]
        earlier = dict.fromkeys(origin for origin in origins if origin is not None)
        node.meta[Origin.KEY] = Origin(step.name, step.provider, names, tuple(earlier))


def _is_known(before: Node | None, node: Node) -> bool:
    return before is not None and (before.op, before.target) == (node.op, node.target)


def _replaced(
    node: Node, known: dict[str, Node], sources: dict[Node, tuple[str, ...]]
) -> tuple[str, ...]:
    """Return what the users of a node used in its place, or what new users were made from."""
    found: dict[str, None] = {}
    for user in node.users:
        if user in sources:
            found.update(dict.fromkeys(sources[user]))
            continue
        before = known[user.name]
        for one, other in zip(_arguments(user), _arguments(before), strict=False):
            if one is node and isinstance(other, Node):
                found[other.name] = None
    return tuple(found)


def _arguments(node: Node) -> list[Any]:
    return tree_leaves((node.args, node.kwargs))


def _provenance(meta: dict[str, Any]) -> dict[str, Any]:
    keys = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", Origin.KEY)
    return {key: meta[key] for key in keys if key in meta}
