"""Values of nodes, computed as nothing around a replay can change."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from typing import Any, Final

import torch
from torch import Tensor

from .._torch.dispatch import OpOverload, is_any_autocast_enabled
from .._torch.fake import FakeTensor, FakeTensorMode, fast_detach
from .._torch.predispatch import disable_transforms, enable_python_dispatcher
from .._torch.symbolic import ShapeEnv, compute_unbacked_bindings
from ..tracing import suspended
from ..tracing.memory._fakes import FakeFactory
from ..tracing.memory._propagation import MISSING, Propagation
from ._remembering import MISSING as UNKNOWN
from ._remembering import CallMemory

aten = torch.ops.aten

_UNREPEATABLE: Final = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.inplace_view,
)
_LIFTING: Final = (aten.lift.default, aten.lift_fresh.default, aten.lift_fresh_copy.default)
_WRITING: Final = frozenset((operator.setitem, operator.delitem))
_MODULES_OF_NUMBERS: Final = frozenset(("_operator", "builtins", "math"))


@cache
def repeats(target: Any) -> bool:
    """Say whether a target makes the same value again from the same operands.

    Not if what it makes depends on data or is a constant whose value may be known, if it changes
    what is known of an operand, or if it does more than an operator does.
    """
    if isinstance(target, OpOverload):
        if target in _LIFTING or any(argument.is_out for argument in target._schema.arguments):
            return False
        return not any(tag in target.tags for tag in _UNREPEATABLE)
    if getattr(target, "__module__", None) in _MODULES_OF_NUMBERS:
        return target not in _WRITING
    return getattr(torch, getattr(target, "__name__", ""), None) is target


def is_indexing_without_mask(target: Any, value: Any) -> bool:
    """Say whether a target is the indexing of a tensor that gave a value of known size.

    Indexed by a mask, a tensor has as many elements as the mask says.
    """
    return (
        target is aten.index.Tensor
        and isinstance(value, Tensor)
        and not value._has_symbolic_sizes_strides
    )


def is_reshaping(target: Any) -> bool:
    """Say whether a target changes the shape, stride or storage of an operand in place."""
    return isinstance(target, OpOverload) and torch.Tag.inplace_view in target.tags


def is_writing(target: Any) -> bool:
    """Say whether a target is an operator that writes to an operand."""
    return isinstance(target, OpOverload) and target._schema.is_mutable


class Computation:
    """Computes what nodes return, below autograd, transforms, autocast and captures.

    Args:
        fake_mode: What computes; with None, values are real, and so is what is done with them.
        remember: Whether the results of calls may be made as those of equal calls before, which
            does not tell who shares a storage with whom.

    Attributes:
        fake_mode: As given.
    """

    def __init__(self, fake_mode: FakeTensorMode | None, *, remember: bool = True) -> None:
        self.fake_mode = fake_mode
        self._remember = remember

    def compute(
        self, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Return `target(*args, **kwargs)`."""
        memory = self._memory
        if memory is None or not isinstance(target, OpOverload) or not repeats(target):
            return self._compute(target, args, kwargs)
        key = memory.key(target, args, kwargs)
        known = UNKNOWN if key is None else memory.recall(key)
        if known is not UNKNOWN:
            return known
        result = self._compute(target, args, kwargs)
        if key is not None and not self._has_new_symbols():
            memory.learn(key, result)
        return result

    def _compute(
        self, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if isinstance(target, OpOverload) and self._propagation is not None:
            output = self._propagation.compute(target, args, kwargs)
            if output is not MISSING:
                return output
        return target(*args, **kwargs)

    def _is_symbolic(self) -> bool:
        """Say whether there are symbols, of which only Python code can tell sizes."""
        shape_env = None if self.fake_mode is None else self.fake_mode.shape_env
        return shape_env is not None and bool(shape_env.var_to_range)

    def bindings(self, value: Any) -> Any:
        """Return where in a value, just computed, new unbacked symbols are; None without any."""
        if self.fake_mode is None or not self._has_new_symbols():
            return None
        return compute_unbacked_bindings(self.fake_mode.shape_env, value)

    def _has_new_symbols(self) -> bool:
        shape_env = None if self.fake_mode is None else self.fake_mode.shape_env
        return shape_env is not None and bool(shape_env.pending_fresh_unbacked_symbols)

    def alias(self, tensor: Tensor) -> Tensor:
        """Return a tensor whose shape may be changed in place without changing the given one's."""
        if isinstance(tensor, FakeTensor):
            return fast_detach(tensor.fake_mode, tensor)
        return tensor.detach()

    @cached_property
    def _propagation(self) -> Propagation | None:
        if self.fake_mode is None or not Propagation.suits(self.fake_mode):
            return None
        return Propagation(FakeFactory(self.fake_mode))

    @cached_property
    def _memory(self) -> CallMemory | None:
        if not self._remember or self.fake_mode is None or not Propagation.suits(self.fake_mode):
            return None
        return CallMemory.of(self.fake_mode)

    @contextmanager
    def surroundings(self) -> Generator[None, None, None]:
        """Enter what values are computed in. Real tensors among operands are constants."""
        with ExitStack() as stack:
            stack.enter_context(suspended())
            stack.enter_context(torch.inference_mode(mode=False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(disable_transforms())
            if is_any_autocast_enabled():
                for device in {"cpu", torch.get_default_device().type}:
                    stack.enter_context(torch.autocast(device, enabled=False))
            if self.fake_mode is not None:
                # What was learnt of a tensor's data in a capture, such as how many elements of a
                # mask are true, has a symbol that nodes of this graph have to bring about anew.
                self.fake_mode.epoch += 1
                stack.enter_context(_apart_from_symbols_of_others(self.fake_mode.shape_env))
                stack.enter_context(_settings_of_captures(self.fake_mode))
                stack.enter_context(self.fake_mode)
                if self._is_symbolic():
                    stack.enter_context(enable_python_dispatcher())
            yield


@contextmanager
def _settings_of_captures(fake_mode: FakeTensorMode) -> Generator[None, None, None]:
    """Let constants be operands, and results be spelled as when a program is captured.

    A result that the mode remembers has the same sizes, and other expressions for them.
    """
    allowed, remembers = fake_mode.allow_non_fake_inputs, fake_mode.cache_enabled
    fake_mode.allow_non_fake_inputs, fake_mode.cache_enabled = True, False
    try:
        yield
    finally:
        fake_mode.allow_non_fake_inputs, fake_mode.cache_enabled = allowed, remembers


@contextmanager
def _apart_from_symbols_of_others(shape_env: ShapeEnv | None) -> Generator[None, None, None]:
    """Leave out symbols that somebody else has made and bound nowhere, as some passes do."""
    if shape_env is None:
        yield
        return
    pending = shape_env.pending_fresh_unbacked_symbols
    others = pending.copy()
    pending.clear()
    try:
        yield
    finally:
        # What is pending now is of a node whose computation has failed.
        pending[:] = others
