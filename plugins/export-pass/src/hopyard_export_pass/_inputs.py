"""What a graph is replayed with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard.replaying import Computation, FakeTensor, FakeTensorMode
from hopyard.tracing import fake_mode_for

from ._errors import at_node
from ._reuse import is_reuse_on
from ._values import leaves_of


def inputs_of(graph_module: GraphModule, stage: str) -> list[Any]:
    """Return a value for each input of a graph.

    That is what `graph_module.meta["args"]` says, or else the metadata of the input: the constant
    that it is known to be, its value, or a tensor that fits `tensor_meta`. None stands for an input
    without metadata that nothing uses.

    Raises:
        ReplayError: An input that is used has no metadata.
    """
    given = graph_module.meta.get("args")
    if given is not None:
        return list(given)
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    return [_input(node, graph_module, stage) for node in placeholders]


def fake_mode_of(graph_module: GraphModule, inputs: list[Any], stage: str) -> FakeTensorMode | None:
    """Return the fake mode that values are computed under; None if inputs are real tensors.

    Raises:
        ReplayError: Inputs are of several fake modes.
    """
    leaves = leaves_of(inputs)
    modes = {leaf.fake_mode for leaf in leaves if isinstance(leaf, FakeTensor)}
    if len(modes) > 1:
        placeholders = graph_module.graph.find_nodes(op="placeholder")
        raise at_node(
            _first_of_another_mode(placeholders) or placeholders[0],
            "has a value of another fake mode than the inputs before it",
            stage,
            hint="make all inputs with one FakeTensorMode",
        )
    for mode in modes:
        return mode
    if any(isinstance(leaf, Tensor) for leaf in leaves):
        return None
    return _recorded_mode(graph_module) or fake_mode_for(())


def computation_for(
    graph_module: GraphModule, fake_mode: FakeTensorMode | None
) -> tuple[Computation, FakeTensorMode]:
    """Return what computes the values of a graph, and the fake mode that describes them."""
    describing = fake_mode or FakeTensorMode(allow_non_fake_inputs=True)
    # Higher-order operators may ask which of their operands share memory.
    has_bodies = any(isinstance(child, GraphModule) for child in graph_module.children())
    return Computation(fake_mode, remember=is_reuse_on() and not has_bodies), describing


def _input(node: Node, graph_module: GraphModule, stage: str) -> Any:
    if "val" in node.meta:
        value = node.meta["val"]
        if not isinstance(value, FakeTensor) or value.constant is None:
            return value
        return value.constant
    known = node.meta.get("tensor_meta")
    if known is not None:
        with _recorded_mode(graph_module) or fake_mode_for(()):
            return torch.empty(
                known.shape,
                dtype=known.dtype,
                requires_grad=known.requires_grad,
                memory_format=known.memory_format or torch.contiguous_format,
            )
    if not node.users:
        return None
    raise at_node(
        node,
        "is an input without meta['val']",
        stage,
        hint="capture the program with hopyard or torch.export, which write it",
    )


def _recorded_mode(graph_module: GraphModule) -> FakeTensorMode | None:
    for node in graph_module.graph.nodes:
        for leaf in leaves_of(node.meta.get("val")):
            if isinstance(leaf, FakeTensor):
                return leaf.fake_mode
    return None


def _first_of_another_mode(placeholders: list[Node]) -> Node | None:
    first: FakeTensorMode | None = None
    for node in placeholders:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            first = first or value.fake_mode
            if value.fake_mode is not first:
                return node
    return None
