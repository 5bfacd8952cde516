"""Whether a graph still takes and returns what its callers expect."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from hopyard._torch.pytree import tree_flatten

from ._difference import difference
from ._structure import unsound


def check_inputs(graph_module: GraphModule, since: GraphModule) -> None:
    """Check that the inputs a graph shares with an earlier version are of the same type in both.

    Raises:
        VerificationError: The first input that is said to be of another type.
    """
    before = {node.name: node for node in since.graph.find_nodes(op="placeholder")}
    for node in graph_module.graph.find_nodes(op="placeholder"):
        if node.name in before:
            _compare_inputs("", node, before[node.name])


def check_outputs(graph_module: GraphModule, since: GraphModule, path: str = "") -> None:
    """Check that a graph returns as many values as before, of the same shapes and types.

    Strides may differ: they are no part of what a program promises.

    Args:
        graph_module: A graph of sound structure.
        since: An earlier version.
        path: The path of the region that both are, "" for a whole program.

    Raises:
        VerificationError: The first output that is another one.
    """
    output = graph_module.graph.output_node()
    values, spec = tree_flatten(output.args[0])
    values_before, spec_before = tree_flatten(since.graph.output_node().args[0])
    if len(values) != len(values_before):
        raise unsound(path, output, f"returns {len(values)} values instead of {len(values_before)}")
    if path and spec != spec_before:
        raise unsound(path, output, "returns values in another container than before")
    for index, (value, before) in enumerate(zip(values, values_before, strict=True)):
        problem = difference(_value(before), _value(value), strides=False)
        if problem:
            node = value if isinstance(value, Node) else output
            raise unsound(
                path,
                node,
                f"is output {index} and not what it was: {problem.replace('it says', 'it was')}",
                "convert the result back, or change the signature with a program pass",
            )


def check_region(graph_module: GraphModule, since: GraphModule, path: str) -> None:
    """Check that the body of a region can be called and used as before.

    Raises:
        VerificationError: It takes or returns something else.
    """
    inputs = graph_module.graph.find_nodes(op="placeholder")
    inputs_before = since.graph.find_nodes(op="placeholder")
    if len(inputs) != len(inputs_before):
        raise unsound(
            path,
            graph_module.graph.output_node(),
            f"belongs to a body with {len(inputs)} inputs instead of {len(inputs_before)}",
            "a pass on the body of a region must leave its placeholders as they are",
        )
    for node, before in zip(inputs, inputs_before, strict=True):
        _compare_inputs(path, node, before)
    check_outputs(graph_module, since, path)


def _compare_inputs(path: str, node: Node, before: Node) -> None:
    if "val" not in before.meta:
        return
    problem = difference(node.meta.get("val"), before.meta["val"])
    if problem:
        raise unsound(path, node, f"is an input with a wrong meta['val']: {problem}")


def _value(value: Any) -> Any:
    return value.meta.get("val") if isinstance(value, Node) else value
