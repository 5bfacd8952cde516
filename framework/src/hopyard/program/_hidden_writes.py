"""Operators that write to an operand without saying so in their schema."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.fx import GraphModule, Node

from .._torch.dispatch import OpOverload
from ._arguments import arguments_of

aten = torch.ops.aten

_DECLARED: dict[OpOverload, OpOverload] = {
    aten.native_batch_norm.default: aten._native_batch_norm_legit.default
}
"""Operators that do the same with the same arguments, and declare what they write."""


def declare_writes(graph_module: GraphModule) -> None:
    """Let nodes that update running statistics call the operators whose schema says that they do.

    Otherwise the write would happen inside a graph that is said to be pure, and be missing from the
    signature.
    """
    for node in _hidden(graph_module):
        arguments = arguments_of(node)
        statistics = arguments["running_mean"], arguments["running_var"]
        if arguments["training"] and None not in statistics:
            node.target = _DECLARED[node.target]  # type: ignore[index]


def _hidden(graph_module: GraphModule) -> Iterator[Node]:
    for module in graph_module.modules():
        if isinstance(module, GraphModule):
            for target in _DECLARED:
                yield from module.graph.find_nodes(op="call_function", target=target)
