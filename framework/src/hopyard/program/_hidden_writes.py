"""Operators that write to an operand without saying so in their schema."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..tracing import DecompositionTable

aten = torch.ops.aten


def _batch_norm(
    value: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """Update running statistics by the operator whose schema says that it does."""
    if not training or running_mean is None:
        return NotImplemented
    return aten._native_batch_norm_legit.default(
        value, weight, bias, running_mean, running_var, training, momentum, eps
    )


DECLARED: DecompositionTable = {aten.native_batch_norm.default: _batch_norm}
"""Decompositions into operators that do the same and declare what they write.

Without them the write would happen inside a graph that is said to be pure, and be missing from the
signature.
"""
