"""`fuse-linear-activation`: a linear layer and the activation after it become one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard.passes import Match, Rewrite
from hopyard_hookspecs import PassResult

aten = torch.ops.aten


def _is_matrix(match: Match) -> bool:
    """Say whether a layer maps one batch of vectors, and has a bias of floating-point numbers."""
    values = [operand.meta.get("val") for operand in match.inputs.values() if _is_node(operand)]
    result = match.results[0].meta.get("val")
    return (
        len(values) == len(match.inputs)
        and isinstance(result, Tensor)
        and result.dim() == 2
        and result.dtype.is_floating_point
    )


def _is_node(operand: Any) -> bool:
    return isinstance(operand, Node)


_REWRITES = (
    Rewrite(
        lambda bias, x, weight: aten.relu.default(aten.addmm.default(bias, x, weight)),
        lambda bias, x, weight: aten._addmm_activation.default(bias, x, weight),
        where=_is_matrix,
    ),
    Rewrite(
        lambda x, weight, bias: aten.relu.default(aten.linear.default(x, weight, bias)),
        lambda x, weight, bias: aten._addmm_activation.default(bias, x, aten.t.default(weight)),
        where=_is_matrix,
    ),
)


@dataclass(frozen=True)
class FuseLinearActivation:
    """Let `relu` of a linear layer with a bias be one operator, also in bodies of regions.

    The operator is `_addmm_activation`, which computes the same numbers and cannot be
    differentiated: this is for inference. Layers of more than two dimensions are fused after they
    were decomposed, when they are products of matrices.
    """

    def __call__(self, graph_module: GraphModule) -> PassResult:
        """Fuse in place."""
        results = [rewrite(graph_module) for rewrite in _REWRITES]
        return PassResult(graph_module, any(result.modified for result in results))
