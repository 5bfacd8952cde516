"""Operators that write to an operand without saying so in their schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .._torch.dispatch import OpOverload
from ..tracing import DecompositionTable
from ._arguments import arguments_of

aten = torch.ops.aten

_DECLARED: dict[OpOverload, OpOverload] = {
    aten.native_batch_norm.default: aten._native_batch_norm_legit.default
}
"""Operators that do the same with the same arguments, and declare what they write."""


def _batch_norm(
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Any:
    if not training or running_mean is None:
        return NotImplemented
    return aten._native_batch_norm_legit.default(
        value, weight, bias, running_mean, running_var, training, momentum, eps
    )[0]


def _instance_norm(value: Tensor, weight: Any, bias: Any, mean: Any, *rest: Any) -> Any:
    return (
        NotImplemented
        if mean is None
        else aten.instance_norm.default.decompose(value, weight, bias, mean, *rest)
    )


WHOLE: DecompositionTable = {
    aten.batch_norm.default: _batch_norm,
    aten.instance_norm.default: _instance_norm,
}
"""What captures above autograd record as operators that say what they write."""


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
