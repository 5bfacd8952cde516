"""Calls that replays have computed before, on operands of the same kind.

What an operator returns on fake tensors is a function of the operator and of the metadata of its
operands: models repeat layers, and a replay that computes one computes them all. Remembered are
operators that repeat their results, write to nothing and return nothing that an operand aliases;
tensors are plain ones, of known layout and unknown value.

What is remembered lives with the fake mode, since it is spelled in the symbols of that, and is
forgotten when the circumstances change that end an epoch of stamps.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import SymBool, SymFloat, SymInt, Tensor, get_default_dtype

from .._stamps import circumstances
from .._torch.dispatch import OpOverload, disable_torch_dispatch
from .._torch.fake import FakeTensor, FakeTensorMode
from ..tracing._atoms import ATOMS
from ..tracing.memory._fakes import FakeFactory
from ._comparing import is_same_value

MISSING: Final = object()
"""Stands for a result that is not remembered."""


class UnknownKindError(Exception):
    """An argument is of a kind whose calls are not remembered."""


_MEMORY: Final = "_hopyard_call_memory"
"""The attribute of a fake mode that holds what is remembered."""


class CallMemory:
    """The results of calls, by what they depend on.

    Args:
        fakes: Makes fake tensors.
        circumstances: What results depend on besides their operands.
    """

    def __init__(self, fakes: FakeFactory, circumstances: Hashable) -> None:
        self.circumstances = circumstances
        self._fakes = fakes
        self._results: dict[Hashable, Any] = {}
        self._eligible: dict[int, tuple[OpOverload, bool]] = {}

    @classmethod
    def of(cls, fake_mode: FakeTensorMode) -> CallMemory:
        """Return what is remembered under a fake mode, as long as nothing has changed."""
        # The mode and its environment are compared by identity: a mode may have been copied, and
        # symbols of two environments may have one name.
        now = (fake_mode, fake_mode.shape_env, circumstances(fake_mode))
        known: CallMemory | None = fake_mode.__dict__.get(_MEMORY)
        if known is None or known.circumstances != now:
            known = cls(FakeFactory(fake_mode), now)
            fake_mode.__dict__[_MEMORY] = known
        return known

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Return nothing: the copy of a mode remembers nothing."""

    def key(
        self, target: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Hashable | None:
        """Return what the result of a call depends on; None if it is not remembered."""
        known = self._eligible.get(id(target))
        if known is None:
            # The operator is kept, so that its identity stays its own.
            known = self._eligible[id(target)] = (target, _returns_new_tensors(target))
        if not known[1]:
            return None
        shape_env = self._fakes.fake_mode.shape_env
        try:
            return (
                id(target),
                get_default_dtype(),
                None if shape_env is None else len(shape_env.replacements),
                *[_kind(value) for value in args],
                *[(name, _kind(value)) for name, value in kwargs.items()],
            )
        except UnknownKindError:
            return None

    def recall(self, key: Hashable) -> Any:
        """Return a result like that of an earlier call, or :data:`MISSING`."""
        known = self._results.get(key, MISSING)
        if known is MISSING:
            return MISSING
        with disable_torch_dispatch():
            return self._again(known)

    def learn(self, key: Hashable, result: Any) -> None:
        """Remember the result of a call."""
        if _is_plain_result(result):
            # The result itself is for others, who may change its shape in place.
            with disable_torch_dispatch():
                self._results[key] = self._again(result)

    def _again(self, known: Any) -> Any:
        if isinstance(known, (list, tuple)):
            return type(known)([self._again(item) for item in known])
        if not isinstance(known, Tensor):
            return known
        device = known.fake_device  # type: ignore[attr-defined]
        if not known._has_symbolic_sizes_strides:
            made = self._fakes.empty(tuple(known.shape), known.stride(), known.dtype, device)
            if is_same_value(made, known):
                return made
        return self._fakes.snapshot(known, device)


def _returns_new_tensors(target: OpOverload) -> bool:
    schema = target._schema
    return not schema.is_mutable and all(each.alias_info is None for each in schema.returns)


def _is_plain_result(result: Any) -> bool:
    if type(result) in (list, tuple):
        return all(map(_is_plain_result, result))
    if type(result) is not FakeTensor:
        return type(result) in ATOMS
    return (
        result.constant is None
        and not result.requires_grad
        and result.layout is torch.strided
        and not result.is_inference()
    )


def _kind(value: Any) -> Hashable:
    """Return what an operator sees of an argument."""
    kind = type(value)
    if kind is FakeTensor:
        return _kind_of_tensor(value)
    if kind in ATOMS:
        # 1, 1.0 and True are equal, as are 0.0 and -0.0; nan is unlike itself.
        return (kind, repr(value) if kind is float or kind is complex else value)
    if kind is list or kind is tuple:
        return (kind, *[_kind(item) for item in value])
    if kind in (SymInt, SymFloat, SymBool):
        return (kind, value.node.expr)
    raise UnknownKindError


def _kind_of_tensor(value: FakeTensor) -> Hashable:
    if (
        value.constant is not None
        or value.real_tensor is not None
        or value.layout is not torch.strided
        or value.is_nested
        or value.is_conj()
        or value.is_neg()
    ):
        raise UnknownKindError
    shape, stride, offset = value.shape, value.stride(), value.storage_offset()
    numbers: Hashable = (shape, stride, offset)
    if value._has_symbolic_sizes_strides:
        numbers = tuple(
            [
                each.node.expr if isinstance(each, SymInt) else each
                for each in (*shape, None, *stride, None, offset)
            ]
        )
    return (numbers, value.dtype, value.fake_device, value.requires_grad)
