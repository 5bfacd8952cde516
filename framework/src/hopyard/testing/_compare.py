"""Whether two graphs are the same, and if not, where they first differ."""

from __future__ import annotations

from itertools import zip_longest

from torch.fx import GraphModule

from ._describe import describe_graph
from ._description import GraphDescription, NodeDescription

_STRUCTURE = {
    "operation": "operation",
    "target": "target",
    "arguments": "arguments",
    "keywords": "keyword arguments",
}
_METADATA = {"value": "meta['val']", "tensor_metadata": "meta['tensor_meta']"}


def assert_same_graph(
    actual: GraphModule | GraphDescription,
    expected: GraphModule | GraphDescription,
    *,
    metadata: bool = True,
    constants: bool = True,
) -> None:
    """Check that two graphs, with the bodies of their regions, are the same but for node names.

    Args:
        actual: A graph.
        expected: What it should be.
        metadata: Whether `val` and `tensor_meta` of the nodes must agree too: shape, type, strides,
            offset, device, who requires grad and who shares a storage with whom.
        constants: Whether what the graphs hold must agree too. Constants that a capture computes
            from memory that nothing has written do not.

    Raises:
        AssertionError: They differ; the message shows the first node that does.
    """
    __tracebackhide__ = True
    difference = first_difference(
        _described(actual), _described(expected), metadata=metadata, constants=constants
    )
    if difference:
        raise AssertionError(difference)


def first_difference(
    actual: GraphDescription,
    expected: GraphDescription,
    *,
    metadata: bool,
    constants: bool,
    path: str = "",
) -> str:
    """Return where two graphs first differ and how, or "" if they do not."""
    where = f"in region {path}: " if path else ""
    for index, (one, other) in enumerate(zip_longest(actual.nodes, expected.nodes)):
        problem = _node_difference(one, other, metadata)
        if problem:
            return f"{where}the graphs differ at node {index}, in {problem}"
    for name in (*expected.regions, *expected.constants):
        one, other = _held(actual, name), _held(expected, name)
        inner = f"{path}.{name}" if path else name
        if isinstance(one, GraphDescription) and isinstance(other, GraphDescription):
            problem = first_difference(
                one, other, metadata=metadata, constants=constants, path=inner
            )
        elif constants or type(one) is not type(other):
            problem = "" if one == other else f"{where}{name} holds{_both(one, other)}"
        else:
            problem = ""
        if problem:
            return problem
    return ""


def _node_difference(
    actual: NodeDescription | None, expected: NodeDescription | None, metadata: bool
) -> str:
    if actual is None or expected is None:
        return "their length" + _both(actual or "no node", expected or "no node")
    fields = {**_STRUCTURE, **_METADATA} if metadata else _STRUCTURE
    for field, label in fields.items():
        one, other = getattr(actual, field), getattr(expected, field)
        if one != other:
            shown = "" if field in _STRUCTURE else _both(one, other)
            return f"{label}{shown}" + _both(
                f"{actual.name} = {actual}", f"{expected.name} = {expected}"
            )
    return ""


def _held(graph: GraphDescription, name: str) -> GraphDescription | str:
    return graph.regions.get(name) or graph.constants[name]


def _both(actual: object, expected: object) -> str:
    return f"\n  actual:   {actual}\n  expected: {expected}"


def _described(graph: GraphModule | GraphDescription) -> GraphDescription:
    return graph if isinstance(graph, GraphDescription) else describe_graph(graph)
