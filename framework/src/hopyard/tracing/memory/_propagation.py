"""What an operator returns on plain fake tensors, asked of what the fake mode would ask.

Torch's fake mode handles every kind of operand and every kind of operator, at a tenth of a
millisecond for each operator before anything is computed, and it decomposes many operators into
others that cost the same again. For plain operands, what it does comes down to one of five ways,
which are decided by the operator and by whether any size is a symbol:

- run the operator's decomposition in Python, on fake tensors
- run its composite kernel, on fake tensors
- run the rule that was registered for it, on fake tensors
- run what was written for it to be fast on symbolic sizes
- run its kernel for tensors on the meta device, and say that the results are on the operands'
  device

The first three call other operators, which are answered here as well. Plain are dense fake tensors
of one device, of the mode at hand, whose sizes are numbers, symbolic or not, and whose values are
not known, next to numbers and other constants. Whatever is not plain, not predictable, or raises is
left to the fake mode, which then gives the answer or the error. That both give the same, and assume
the same of symbols, is tested over all of torch's operators.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import SymInt, Tensor

from ..._torch.dispatch import (
    OpOverload,
    TorchDispatchMode,
    disable_torch_dispatch,
    preserve_dispatch_keys,
    use_meta_kernels,
)
from ..._torch.fake import (
    FakeTensor,
    FakeTensorMode,
    decomposition_table,
    fake_rules,
    fake_rules_by_kind,
    fast_implementations,
    has_fake_kernel,
    is_decomposed_when_fake,
    is_tensor_constructor,
    like_constructors,
    meta_table,
    unset_fake_temporarily,
)
from .._atoms import ATOMS
from .._infrastructure import Infrastructure
from ._fakes import FakeFactory
from ._operators import is_composite, is_predictable

MISSING: Final = object()
"""Stands for an output that has to be found the long way."""

_DEVICE: Final = torch.ops.prim.device.default
_META: Final = torch.device("meta")
_CPU: Final = torch.device("cpu")
_VIEWS: Final = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
_PRIMITIVE_RULE: Final = "prim_meta_impl"
"""Where a primitive operator has the rule that the fake mode prefers to a registered one."""

_RULES_FIRST: Final = (*_VIEWS, torch.ops.aten.slice.Tensor)
"""Operators whose rules know more of symbolic sizes than their decompositions."""


class Query(NamedTuple):
    """A call of an operator with plain arguments.

    Attributes:
        func: The operator.
        args: The positional arguments.
        kwargs: The keyword arguments.
        device: The device of the tensors; None if there are none.
        names_device: Whether a device is among the arguments.
        symbolic: Whether a symbolic size is among them, or the size of a tensor.
    """

    func: OpOverload
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    device: torch.device | None
    names_device: bool
    symbolic: bool


Way = Callable[["Propagation", Query], Any]
"""Answers a call."""

Ways = tuple[Way | None, Way | None]
"""How to answer calls without symbolic sizes, and with."""


class Propagation(Infrastructure, TorchDispatchMode):
    """Answers operators on plain fake tensors of one fake mode.

    As a mode, it answers the operators that a decomposition consists of.

    Attributes:
        fake_mode: The mode of the tensors.
    """

    def __init__(self, fakes: FakeFactory) -> None:
        super().__init__()
        self._fakes = fakes
        self.fake_mode = fakes.fake_mode
        self._ways: dict[int, tuple[OpOverload, Ways | None]] = {}

    @classmethod
    def suits(cls, fake_mode: FakeTensorMode) -> bool:
        """Say whether `fake_mode` is an ordinary one, that computes nothing besides."""
        return type(fake_mode) is FakeTensorMode and not fake_mode.propagate_real_tensors

    def compute(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return what `func` returns, or :data:`MISSING` if only the fake mode can tell."""
        ways = self._ways_of(func)
        if ways is None:
            return MISSING
        query = self._read(func, args, kwargs)
        way = None if query is None else ways[query.symbolic]
        if query is None or way is None:
            return MISSING
        try:
            output = way(self, query)
        except Exception:  # noqa: BLE001
            # The fake mode says what is wrong, in its own words.
            return MISSING
        return _as_declared(func, output)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer an operator that a decomposition calls."""
        kwargs = kwargs or {}
        if func is _DEVICE and type(args[0]) is FakeTensor:
            return args[0].fake_device
        if isinstance(func, OpOverload):
            output = self.compute(func, args, kwargs)
            if output is not MISSING:
                return output
        return func(*args, **kwargs)

    def _ways_of(self, func: OpOverload) -> Ways | None:
        known = self._ways.get(id(func))
        if known is None:
            # The operator is kept with its ways, so that its id is not given to another one.
            known = self._ways[id(func)] = (func, _find_ways(func, self.fake_mode))
        return known[1]

    def _read(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Query | None:
        """Return a call with plain arguments, or None if they are not plain."""
        device: torch.device | None = None
        names_device = symbolic = False
        pending = [*args, *kwargs.values()]
        for value in pending:
            kind = type(value)
            if kind is FakeTensor:
                if device is None:
                    device = value.fake_device
                if not self._is_plain(value, device):
                    return None
                symbolic = symbolic or value._has_symbolic_sizes_strides
            elif kind is torch.device:
                names_device = True
            elif kind in ATOMS:
                continue
            elif kind in (list, tuple, torch.Size):
                pending.extend(value)
            elif kind is SymInt:
                symbolic = True
            else:
                return None
        return Query(func, args, kwargs, device, names_device, symbolic)

    def _is_plain(self, tensor: FakeTensor, device: torch.device) -> bool:
        return (
            tensor.fake_mode is self.fake_mode
            and tensor.fake_device == device
            and tensor.constant is None
            and tensor.layout is torch.strided
            and not (tensor.is_quantized or tensor.is_nested or tensor._is_zerotensor())
            and not (tensor.is_conj() or tensor.is_neg())
        )

    def on_meta(self, query: Query, device: torch.device) -> Any:
        """Run the kernel for the meta device and say that the results are on `device`."""
        with disable_torch_dispatch():
            with preserve_dispatch_keys():
                use_meta_kernels(True)
                self.fake_mode.in_kernel_invocation = True
                try:
                    output = query.func(*query.args, **query.kwargs)
                finally:
                    self.fake_mode.in_kernel_invocation = False
            return self._dress(output, device)

    def share(self, source: FakeTensor, shape: tuple[int, ...], stride: tuple[int, ...]) -> Any:
        """Return a view of all of `source`."""
        offset = int(source.storage_offset())
        with disable_torch_dispatch():
            return self._fakes.view(source, shape, stride, offset, source.dtype, source.fake_device)

    def _dress(self, output: Any, device: torch.device) -> Any:
        if isinstance(output, (list, tuple)):
            return [self._dress(item, device) for item in output]
        if not isinstance(output, Tensor) or type(output) is FakeTensor:
            return output
        if output.device != _META or output.layout is not torch.strided:
            raise TypeError("the result is not a plain tensor on the meta device")
        # Kernels in Python may call differentiable operators.
        return self._fakes.wrap(output, device, output.requires_grad)


def _find_ways(func: OpOverload, fake_mode: FakeTensorMode) -> Ways | None:
    """Return how to answer calls of `func` with plain arguments, None if that is not simple."""
    if not is_predictable(func) or (has_fake_kernel(func) and not hasattr(func, _PRIMITIVE_RULE)):
        return None
    static = _way_of(func, fake_mode, symbolic=False)
    if static is not None and func in _VIEWS:
        static = functools.partial(_view, static)
    return static, _way_of(func, fake_mode, symbolic=True)


def _way_of(func: OpOverload, fake_mode: FakeTensorMode, *, symbolic: bool) -> Way | None:
    """Return the way that the fake mode goes for plain operands, None if it is not simple."""
    if symbolic and func in fast_implementations():
        return functools.partial(_shortcut, fast_implementations()[func])
    supports_symbols = func in meta_table or fake_mode.cpp_meta_supports_symint(func)
    if not supports_symbols and not (symbolic and func in _RULES_FIRST):
        if func in decomposition_table and (symbolic or is_decomposed_when_fake(func)):
            return functools.partial(_in_python, decomposition_table[func])
        if is_composite(func):
            return functools.partial(_in_python, func.decompose)
    if func.namespace == "prims":
        meta = getattr(func, _PRIMITIVE_RULE, None)
        return None if meta is None else functools.partial(_in_python, meta)
    if is_tensor_constructor(func) or func in like_constructors:
        return _construct
    rule = fake_rules.get(func)
    rules = [rule] if rule else [rule for applies, rule in fake_rules_by_kind if applies(func)]
    if rules:
        return functools.partial(_in_python, functools.partial(rules[0], fake_mode, func))
    return _run_on_meta


def _in_python(function: Callable[..., Any], propagation: Propagation, query: Query) -> Any:
    """Run what is written in other operators, which are answered as well."""
    with propagation:
        return _fake(function(*query.args, **query.kwargs))


def _shortcut(function: Callable[..., Any], propagation: Propagation, query: Query) -> Any:
    """Run what makes meta tensors itself."""
    fake_mode = propagation.fake_mode
    with unset_fake_temporarily():
        return _fake(function(fake_mode, *query.args, **query.kwargs))


def _view(otherwise: Way, propagation: Propagation, query: Query) -> Any:
    """View rows in order as rows in order; torch does it a dimension at a time, in Python."""
    source, sizes = query.args
    shape = _whole_shape(sizes, source.numel())
    if shape is None or source.stride() != _row_strides(source.shape):
        return otherwise(propagation, query)
    return propagation.share(source, shape, _row_strides(shape))


def _whole_shape(sizes: Sequence[int], count: int) -> tuple[int, ...] | None:
    """Return `sizes` with -1 filled in, None if they do not hold exactly `count` elements."""
    known = math.prod(size for size in sizes if size != -1)
    if known > 0 and list(sizes).count(-1) == 1 and count:
        sizes = [count // known if size == -1 else size for size in sizes]
    whole = min(sizes, default=1) > 0 and math.prod(sizes) == count
    return tuple(sizes) if whole else None


def _row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = []
    stride = 1
    for size in reversed(shape):
        strides.append(stride)
        stride *= size
    return tuple(reversed(strides))


def _construct(propagation: Propagation, query: Query) -> Any:
    device = query.kwargs.get("device") or query.device or _CPU
    if device != query.device and device != _CPU:
        # The current one, if it has no number.
        return MISSING
    on_meta = {**query.kwargs, "device": _META}
    return propagation.on_meta(query._replace(kwargs=on_meta), device)


def _run_on_meta(propagation: Propagation, query: Query) -> Any:
    if query.device is None or query.names_device:
        return MISSING
    return propagation.on_meta(query, query.device)


def _fake(output: Any) -> Any:
    """Return the output of a rule, which makes fake tensors itself."""
    items = output if isinstance(output, (list, tuple)) else (output,)
    if any(isinstance(item, Tensor) and type(item) is not FakeTensor for item in items):
        return MISSING
    return MISSING if output is NotImplemented else output


def _as_declared(func: OpOverload, output: Any) -> Any:
    """Return several results as a tuple and one list of results as a list, as dispatch does."""
    if not isinstance(output, (list, tuple)):
        return output
    return tuple(output) if len(func._schema.returns) > 1 else list(output)
