"""Amounts and tensors as far as a cost depends on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor

from .._torch.pytree import tree_map

Amount: TypeAlias = int | sympy.Expr
"""A number that is known, or an expression of the symbols of dynamic sizes."""


def amount(number: Any) -> Amount:
    """Return a size as an amount.

    Raises:
        TypeError: It is symbolic in a way that has no expression, such as a ragged size.
    """
    if isinstance(number, torch.SymInt):
        expression = getattr(number.node, "expr", None)
        if expression is None:
            raise TypeError(f"the size {number} has no expression")
        number = expression
    if isinstance(number, sympy.Expr):
        return int(number) if number.is_Integer else number
    return int(number)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor without its values.

    Formulas of torch read `shape`, `device`, `dtype`, `size()` and `dim()` of it.

    Attributes:
        shape: Its sizes.
        strides: Elements between neighbours along each dimension; None if it is not dense.
        dtype: Its type.
        device: Where it is.
    """

    shape: tuple[Amount, ...]
    strides: tuple[Amount, ...] | None
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """Return what `tensor` is, real or fake."""
        strided = tensor.layout is torch.strided and not tensor.is_nested
        strides = tuple(amount(stride) for stride in tensor.stride()) if strided else None
        shape = tuple(amount(size) for size in tensor.shape)
        return cls(shape, strides, tensor.dtype, tensor.device)

    @property
    def elements(self) -> Amount:
        """Number of elements that are apart in memory, which those of an expanded one are not."""
        strides = self.strides or (1,) * len(self.shape)
        apart = [size for size, stride in zip(self.shape, strides, strict=True) if stride != 0]
        return math.prod(apart)

    @property
    def memory(self) -> Amount:
        """Number of bytes that those elements take."""
        return self.elements * self.dtype.itemsize

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """Return all sizes, or the size of one dimension."""
        return self.shape if dim is None else self.shape[dim]


def specified(tree: Any) -> Any:
    """Return nested values with tensors replaced by what they are, and sizes by amounts."""
    return tree_map(_specified, tree)


def _specified(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TensorSpec.of(value)
    return amount(value) if isinstance(value, torch.SymInt) else value
