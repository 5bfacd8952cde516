"""How two values differ in what metadata says of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor

from hopyard._torch.symbolic import statically_known_true

_NUMBERS = (bool, int, float, complex, SymBool, SymFloat, SymInt)


def difference(recorded: Any, computed: Any, *, strides: bool = True) -> str:
    """Return what a recorded value claims and what is true, or "" if it may well be right.

    Strides are compared where they matter: in dimensions of more than one element. Symbolic sizes
    differ if they do for every value of the symbols. A recorded None says nothing.

    Args:
        recorded: What is claimed.
        computed: What is true.
        strides: Whether strides count at all.
    """
    if recorded is None:
        return ""
    if isinstance(recorded, Tensor) and isinstance(computed, Tensor):
        return _tensor_difference(recorded, computed, strides=strides)
    if isinstance(recorded, (list, tuple)) and isinstance(computed, (list, tuple)):
        return _sequence_difference(recorded, computed, strides=strides)
    if isinstance(recorded, _NUMBERS) and isinstance(computed, _NUMBERS):
        return _said(recorded, computed) if _differ(recorded, computed) else ""
    if isinstance(recorded, (Tensor, *_NUMBERS)) or isinstance(computed, (Tensor, *_NUMBERS)):
        return _said(_described(recorded), _described(computed))
    return ""


def _tensor_difference(recorded: Tensor, computed: Tensor, *, strides: bool) -> str:
    types = [(value.dtype, value.device, value.layout) for value in (recorded, computed)]
    if types[0] == types[1] and not _sizes_differ(recorded.shape, computed.shape):
        comparable = strides and recorded.layout == torch.strided
        if not comparable or not _strides_differ(recorded, computed):
            return ""
        return _said(
            f"{_described(recorded)} with strides {tuple(recorded.stride())}",
            f"strides {tuple(computed.stride())}",
        )
    return _said(_described(recorded), _described(computed))


def _sequence_difference(
    recorded: list[Any] | tuple[Any, ...],
    computed: list[Any] | tuple[Any, ...],
    *,
    strides: bool,
) -> str:
    if len(recorded) != len(computed):
        return _said(f"{len(recorded)} values", f"{len(computed)}")
    for index, (one, other) in enumerate(zip(recorded, computed, strict=True)):
        problem = difference(one, other, strides=strides)
        if problem:
            return f"item {index}: {problem}"
    return ""


def _sizes_differ(recorded: torch.Size, computed: torch.Size) -> bool:
    return len(recorded) != len(computed) or any(map(_differ, recorded, computed))


def _strides_differ(recorded: Tensor, computed: Tensor) -> bool:
    sizes: list[Any] = list(recorded.shape)
    if any(isinstance(size, int) and size == 0 for size in sizes):
        return False
    strides = zip(sizes, recorded.stride(), computed.stride(), strict=True)
    return any(
        _differ(one, other)
        for size, one, other in strides
        if not (isinstance(size, int) and size == 1)
    )


def _differ(one: Any, other: Any) -> bool:
    """Say whether two numbers certainly differ, without adding a guard for symbolic ones."""
    if isinstance(one, (SymBool, SymFloat, SymInt)) or isinstance(
        other, (SymBool, SymFloat, SymInt)
    ):
        return statically_known_true(one != other)
    # nan is unlike itself.
    return bool(one != other) and repr(one) != repr(other)


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "nothing" if value is None else str(value)
    dtype = str(value.dtype).removeprefix("torch.")
    layout = "" if value.layout == torch.strided else f" {value.layout}"
    return f"{dtype}{list(value.shape)}{layout} on {value.device}"


def _said(recorded: object, computed: object) -> str:
    return f"it says {recorded}, and {computed} is true"
