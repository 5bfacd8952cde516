"""Whether two values are the same in every respect that an operator could see."""

from __future__ import annotations

from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor

from .._torch.fake import FakeTensor

_SYMBOLIC = (SymInt, SymFloat, SymBool)


def is_same_value(one: Any, other: Any) -> bool:
    """Say whether two values of metadata are the same in every respect.

    Symbolic numbers are the same if they are the same expression; no guard is added.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return _is_same_tensor(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same_value, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(is_same_value, one.values(), other.values()))
    if isinstance(one, _SYMBOLIC):
        return bool(one.node.shape_env is other.node.shape_env and one.node.expr == other.node.expr)
    # nan is unlike itself, and 0.0 is equal to -0.0.
    return bool(repr(one) == repr(other))


def _is_same_tensor(one: Tensor, other: Tensor) -> bool:
    if not isinstance(one, FakeTensor) or not isinstance(other, FakeTensor):
        return False
    if (
        one.fake_mode is not other.fake_mode
        or one.dtype != other.dtype
        or one.device != other.device
        or one.layout != other.layout
        or one.requires_grad != other.requires_grad
        or one.is_conj() != other.is_conj()
        or one.is_neg() != other.is_neg()
        or one.is_nested != other.is_nested
        or one.constant is not other.constant
        or one.real_tensor is not other.real_tensor
        or not _are_same_numbers(one.shape, other.shape)
    ):
        return False
    if one.layout != torch.strided or one.is_nested:
        return False
    return (
        _are_same_numbers(one.stride(), other.stride())
        and is_same_number(one.storage_offset(), other.storage_offset())
        and is_same_number(one.untyped_storage().nbytes(), other.untyped_storage().nbytes())
    )


def is_same_number(one: Any, other: Any) -> bool:
    """Say whether two numbers are the same number, or the same expression."""
    one, other = _plain(one), _plain(other)
    if isinstance(one, SymInt) or isinstance(other, SymInt):
        return is_same_value(one, other)
    return bool(one == other)


def _plain(number: Any) -> Any:
    """Return a number that is the same for all values of the symbols as a plain one."""
    if isinstance(number, SymInt) and number.node.expr.is_number:
        return int(number.node.expr)
    return number


def _are_same_numbers(left: Any, right: Any) -> bool:
    return len(left) == len(right) and all(map(is_same_number, left, right))
