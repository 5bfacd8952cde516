"""A graph with the graphs of the regions in it, and whether two graphs say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.fx import GraphModule, Node
from torch.nn import Module


def walk_graphs(graph_module: GraphModule, path: str = "") -> Iterator[tuple[str, GraphModule]]:
    """Yield a graph module and the bodies of its regions, each once, callers before what they call.

    Each comes with its path: `""`, then attribute names joined by dots.
    """
    yield from _walk(graph_module, path, set())


def count_nodes(graph_module: GraphModule) -> int:
    """Return the number of nodes of a graph and of the bodies of its regions."""
    return sum(len(body.graph.nodes) for _, body in walk_graphs(graph_module))


def attribute(module: Module, target: str) -> Any:
    """Return what a `get_attr` node with that target reads.

    Raises:
        AttributeError: There is nothing.
    """
    value: Any = module
    for name in target.split("."):
        value = getattr(value, name)
    return value


def same_arguments(left: Any, right: Any, corresponds: Callable[[Node, Node], bool]) -> bool:
    """Say whether two nodes' arguments are the same; `corresponds` compares nodes among them."""
    if isinstance(left, Node):
        return isinstance(right, Node) and corresponds(left, right)
    if isinstance(left, slice) and isinstance(right, slice):
        left = (left.start, left.stop, left.step)
        right = (right.start, right.stop, right.step)
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and left.keys() == right.keys()
            and all(same_arguments(left[key], right[key], corresponds) for key in left)
        )
    if isinstance(left, (list, tuple)):
        return _is_like(left, right) and all(
            same_arguments(one, other, corresponds) for one, other in zip(left, right, strict=True)
        )
    # 1, 1.0 and True are equal in Python and different to an operator; nan is unlike itself.
    return left is right or (type(left) is type(right) and repr(left) == repr(right))


def _is_like(left: Sequence[Any], right: Any) -> bool:
    kind = list if isinstance(left, list) else tuple
    return isinstance(right, kind) and len(left) == len(right)


def _walk(
    graph_module: GraphModule, path: str, seen: set[int]
) -> Iterator[tuple[str, GraphModule]]:
    seen.add(id(graph_module))
    yield path, graph_module
    for node in graph_module.graph.find_nodes(op="get_attr"):
        target = str(node.target)
        try:
            value = attribute(graph_module, target)
        except AttributeError:
            continue
        if isinstance(value, GraphModule) and id(value) not in seen:
            yield from _walk(value, f"{path}.{target}" if path else target, seen)
