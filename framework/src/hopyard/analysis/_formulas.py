"""Formulas for floating-point operations: torch's, and those of operators that torch leaves out.

A multiplication and the addition that follows it are two operations. As in torch, what is counted
are matrix products, convolutions and attention; work that grows with the bytes an operator touches,
such as additions, activations, norms and copies, is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from .._torch.dispatch import HigherOrderOperator, OpOverload
from .._torch.flops import attention_backward_flops, attention_flops, flop_formulas
from .._torch.pytree import tree_map
from ._values import Amount, TensorSpec

Formula: TypeAlias = Callable[..., Amount]
"""Called with the operator's arguments and `out_val`, its result; returns a number of operations.

One that `torch.utils.flop_counter.register_flop_formula` made is given sizes in the place of
tensors, any other a :class:`TensorSpec` for each.
"""

aten = torch.ops.aten

_SUPERLINEAR = re.compile(
    r"mm(_|$)|mv(_|$)|dot(_|$)|matmul|attention|bilinear$|[cp]dist|euclidean_dist|cholesky"
    r"|conv(?!ert)|cov$|corrcoef|einsum|fft|inner$|kron$|linalg|(^|_)linear(_|$)|spsolve"
    r"|(^|_)(eig|geqrf|inverse|lstsq|lu|orgqr|ormqr|pinverse|qr|svd)(_|$)|(^|_)matrix_(exp|power)"
    r"|(^|_)(gru|lstm|rnn)(_|$)|_rnn|slogdet|logdet|(^|_)det$|triangular_solve|_trilinear$"
    r"|transformer_encoder|nuclear_norm"
)
"""Names of torch's operators whose work may outgrow the bytes they touch."""

_LINEAR_AFTER_ALL = re.compile(
    r"linalg_(vector_norm|norm|diagonal|cross|vecdot|vander|_powsum)$|_linalg_check_errors"
    r"|slice_inverse|fft_i?fftshift|fft_r?fftfreq|_thnn_\w+_cell|lu_unpack|reorder_conv|_pack_"
)
"""Of those, names that only sound like it."""

FORMULA_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a formula raises for operands that it was not made for; torch's assert that sizes fit."""

_PURE = frozenset({"aten", "prim", "prims"})


def formula_for(
    target: Any, formulas: Mapping[Any, Formula] | None = None
) -> tuple[Formula, bool] | None:
    """Return the formula for an operator and whether it wants sizes instead of tensors.

    Args:
        target: An operator, or a higher-order one.
        formulas: Formulas that go before all others, by operator, its packet or higher-order
            operator; they are given :class:`TensorSpec`.
    """
    names = _names(target)
    for name in names:
        if formulas and name in formulas:
            return formulas[name], False
    for name in names:
        if name in flop_formulas:
            # Those that want tensors are registered as they are, the others in a wrapper.
            found = flop_formulas[name]
            return found, hasattr(found, "__wrapped__")
    for name in names:
        if name in _OURS:
            return _OURS[name], False
    return None


def apply_formula(
    found: tuple[Formula, bool], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
) -> Amount:
    """Return what a formula says.

    Raises:
        Exception: The operands are none that the formula was made for: one of `FORMULA_ERRORS`.
    """
    formula, wants_sizes = found
    if wants_sizes:
        args, kwargs, result = tree_map(_sizes, (args, dict(kwargs), result))
    return formula(*args, **kwargs, out_val=result)


def is_linear(target: Any) -> bool:
    """Say whether an operator's work grows no faster than the bytes it touches.

    That is known of torch's own operators, but for some that have no formula.
    """
    if isinstance(target, OpOverload):
        namespace, _, name = target._schema.name.partition("::")
        sounds_superlinear = _SUPERLINEAR.search(name) and not _LINEAR_AFTER_ALL.search(name)
        return namespace in _PURE and not sounds_superlinear
    return not isinstance(target, (str, HigherOrderOperator))


def _names(target: Any) -> list[Any]:
    if not isinstance(target, OpOverload):
        return [target]
    packet = target.overloadpacket
    names: list[Any] = [target, packet]
    base = packet.__name__
    if base.endswith("_") and not base.endswith("__"):
        functional = getattr(getattr(torch.ops, target.namespace), base[:-1], None)
        names.append(functional)
    return names


def _sizes(value: Any) -> Any:
    return list(value.shape) if isinstance(value, TensorSpec) else value


def _product(left: TensorSpec, right: TensorSpec, *_: Any, **__: Any) -> Amount:
    """Matrix product in the sense of `torch.matmul`: two operations for each multiplication."""
    inner = left.shape[-1]
    rows = left.shape[-2:-1]
    columns = right.shape[-1:] if right.dim() > 1 else ()
    batch = _broadcast(left.shape[:-2], right.shape[:-2])
    return math.prod((2, inner, *rows, *columns, *batch))


def _broadcast(left: tuple[Amount, ...], right: tuple[Amount, ...]) -> tuple[Amount, ...]:
    longer, shorter = (left, right) if len(left) >= len(right) else (right, left)
    offset = len(longer) - len(shorter)
    return tuple(
        size if index < offset or size != 1 else shorter[index - offset]
        for index, size in enumerate(longer)
    )


def _linear(operand: TensorSpec, weight: TensorSpec, *_: Any, **__: Any) -> Amount:
    return math.prod((2, *operand.shape, *weight.shape[:-1]))


def _added_product(_: Any, left: TensorSpec, right: TensorSpec, *__: Any, **___: Any) -> Amount:
    return _product(left, right)


def _convolution(
    operand: TensorSpec, weight: TensorSpec, *_: Any, out_val: Any, **__: Any
) -> Amount:
    batch = out_val.shape[0] if operand.dim() == weight.dim() else 1
    places = out_val.shape[2 - weight.dim() :]
    return math.prod((2, batch, *places, *weight.shape))


def _transposed(operand: TensorSpec, weight: TensorSpec, *_: Any, **__: Any) -> Amount:
    batch = operand.shape[0] if operand.dim() == weight.dim() else 1
    places = operand.shape[2 - weight.dim() :]
    return math.prod((2, batch, *places, *weight.shape))


def _attention(query: TensorSpec, key: TensorSpec, value: TensorSpec, *_: Any, **__: Any) -> Amount:
    flops: Amount = attention_flops(*map(_heads, (query, key, value)))
    return flops


def _attention_backward(
    gradient: TensorSpec, query: TensorSpec, key: TensorSpec, value: TensorSpec, *_: Any, **__: Any
) -> Amount:
    flops: Amount = attention_backward_flops(*map(_heads, (gradient, query, key, value)))
    return flops


def _heads(tensor: TensorSpec) -> tuple[Amount, ...]:
    """Return sizes as batch, heads, length and width, which `attention` may be called without."""
    *batch, length, width = tensor.shape
    heads = batch.pop() if batch else 1
    return math.prod(batch), heads, length, width


_OURS: Mapping[Any, Formula] = {
    aten.linear: _linear,
    aten.matmul: _product,
    aten.mv: _product,
    aten.dot: _product,
    aten.vdot: _product,
    aten._int_mm: _product,
    aten.addmv: _added_product,
    aten._addmm_activation: _added_product,
    aten.addbmm: _added_product,
    aten.conv1d: _convolution,
    aten.conv2d: _convolution,
    aten.conv3d: _convolution,
    aten.mkldnn_convolution: _convolution,
    aten.conv_transpose1d: _transposed,
    aten.conv_transpose2d: _transposed,
    aten.conv_transpose3d: _transposed,
    aten.scaled_dot_product_attention: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten._scaled_dot_product_attention_math: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch counts as nothing, or decomposes, which needs sizes that are numbers."""
