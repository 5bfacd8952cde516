"""The calling convention of a program: which inputs it takes, and what is wrong with others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from sympy import Basic  # type: ignore[import-untyped]
from torch import Tensor

from .._torch.objects import FakeScriptObject, class_name, is_script_object
from .._torch.pytree import (
    TreeSpec,
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_unflatten,
)
from ..errors import InputError, UnsupportedError
from ._aliases import Alias
from ._sizes import NO_SYMBOLS, Bindings, Size, Symbols, bind, known, size_of


@dataclass(frozen=True, slots=True)
class TensorType:
    """What an input tensor must be.

    Attributes:
        shape: Its sizes; those that differ from call to call are expressions.
        dtype: Its data type.
        device: Its device.
        stride: How the graph expects it in memory; None if its layout has no strides. A tensor that
            is laid out otherwise is of the same type, and copied before the graph sees it.
        is_dynamic: Whether a size differs from call to call.
    """

    shape: tuple[Size, ...]
    dtype: torch.dtype
    device: torch.device
    stride: tuple[Size, ...] | None = field(default=None, compare=False)
    is_dynamic: bool = field(init=False, repr=False, compare=False)
    _is_dense: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        is_dynamic = any(isinstance(size, Basic) for size in self.shape)
        object.__setattr__(self, "is_dynamic", is_dynamic)
        object.__setattr__(self, "_is_dense", self.stride == dense_stride(self.shape))

    @classmethod
    def of(cls, tensor: Tensor) -> TensorType:
        """Return the type of `tensor`."""
        stride = None
        if tensor.layout is torch.strided:
            found = dense_stride(tensor.shape) if is_expanded(tensor) else tensor.stride()
            stride = tuple(size_of(step) for step in found)
        shape = tuple(size_of(size) for size in tensor.shape)
        return cls(shape, tensor.dtype, tensor.device, stride)

    def could_be(self, tensor: Tensor) -> bool:
        """Return whether all but the sizes that differ from call to call are those of `tensor`."""
        return (
            self.dtype == tensor.dtype
            and self.device == tensor.device
            and len(self.shape) == tensor.dim()
            and all(
                isinstance(ours, Basic) or ours == theirs
                for ours, theirs in zip(self.shape, tensor.shape, strict=True)
            )
        )

    def is_laid_out_like(self, tensor: Tensor, bindings: Bindings) -> bool:
        """Return whether `tensor`, which is of this type, has the strides that matter."""
        if self.stride is None or (self._is_dense and tensor.is_contiguous()):
            return True
        if tensor.numel() == 0:
            return True
        steps = zip(tensor.shape, known(self.stride, bindings), tensor.stride(), strict=True)
        return all(size == 1 or ours == theirs for size, ours, theirs in steps)

    def laid_out(self, tensor: Tensor, bindings: Bindings) -> Tensor:
        """Return a copy of `tensor` in the layout of the example; gradients flow through it."""
        assert self.stride is not None
        stride = known(self.stride, bindings)
        into = torch.empty_strided(tensor.shape, stride, dtype=self.dtype, device=self.device)
        return into.copy_(tensor)

    def __str__(self) -> str:
        shape = ", ".join(str(size) for size in self.shape)
        return f"{str(self.dtype).removeprefix('torch.')}[{shape}] on {self.device}"


@dataclass(frozen=True, slots=True)
class ObjectType:
    """What an input must be that is an object of a C++ class.

    Attributes:
        name: The name that torch knows the class by.
    """

    name: str

    def __str__(self) -> str:
        return f"an object of {self.name.removeprefix('__torch__.torch.classes.')}"


def type_of(value: Any) -> Any:
    """Return what an input must be if `value` is the example: a type, or the value itself."""
    if isinstance(value, Tensor):
        return TensorType.of(value)
    is_object = is_script_object(value) or isinstance(value, FakeScriptObject)
    return ObjectType(class_name(value)) if is_object else value


def is_expanded(tensor: Tensor) -> bool:
    """Return whether elements of a strided tensor share memory, as those of `x.expand(...)` do."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return any(step == 0 and size > 1 for size, step in steps)


def dense_stride(shape: Sequence[Any]) -> tuple[Any, ...]:
    """Return the strides that a contiguous tensor of this shape has."""
    strides: list[Any] = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * (max(size, 1) if isinstance(size, int) else size))
    return tuple(reversed(strides)) if len(shape) else ()


@dataclass(frozen=True)
class InputLeaf:
    """One leaf of the example inputs.

    Attributes:
        path: How a user would write it, for example `batch['mask']`.
        name: The path as an identifier, for the graph's placeholder.
        expected: A :class:`TensorType`, an :class:`ObjectType`, or the value itself, which the
            capture specialised on.
        source: How torch writes it in the conditions that an exported program checks.
    """

    path: str
    name: str
    expected: Any
    source: str = ""


class CheckedCall(NamedTuple):
    """A call that fits what was captured.

    Attributes:
        leaves: The inputs.
        bindings: The sizes that symbols stand for in this call.
    """

    leaves: list[Any]
    bindings: Bindings


@dataclass(frozen=True)
class CallingConvention:
    """The structure of a program's arguments and results.

    Attributes:
        inputs: The leaves of `(args, kwargs)`, in order.
        in_spec: The structure of `(args, kwargs)`.
        out_spec: The structure of the result.
        parameters: Names of the parameters that may be given by position as well as by name.
        aliases: Leaves of the result that are operands or views of operands.
        symbols: What must hold of sizes that differ from call to call.
    """

    inputs: tuple[InputLeaf, ...]
    in_spec: TreeSpec
    out_spec: TreeSpec
    parameters: tuple[str, ...] = ()
    aliases: tuple[Alias, ...] = ()
    symbols: Symbols = NO_SYMBOLS

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CheckedCall:
        """Return the leaves of a call, checked.

        Raises:
            InputError: The call does not fit what was captured; the message names the input.
        """
        args, kwargs = self._as_captured(args, kwargs)
        leaves, spec = tree_flatten((args, self._in_order(kwargs)))
        if spec != self.in_spec:
            raise InputError(
                f"the arguments have the structure {_structure(spec)}, "
                f"but {_structure(self.in_spec)} was captured",
                hint="pass the same positional and keyword arguments as in the example inputs",
                stage="program",
            )
        for leaf, value in zip(self.inputs, leaves, strict=True):
            _check(leaf, value)
        dynamic = [
            (leaf.path, leaf.expected.shape, value.shape)
            for leaf, value in zip(self.inputs, leaves, strict=True)
            if isinstance(leaf.expected, TensorType) and leaf.expected.is_dynamic
        ]
        bindings, names = bind(dynamic)
        if names:
            self.symbols.check(bindings, names)
        return CheckedCall(leaves, bindings)

    def guards(self) -> tuple[str, ...]:
        """Return the conditions that :meth:`flatten` checks."""
        inputs = tuple(
            f"{leaf.path}: {leaf.expected}"
            if isinstance(leaf.expected, TensorType | ObjectType)
            else f"{leaf.path} == {leaf.expected!r}"
            for leaf in self.inputs
        )
        symbols = (*self.symbols.ranges, *self.symbols.conditions)
        return (*inputs, *map(str, symbols))

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """Return the program's result in the structure of the captured function's."""
        return tree_unflatten(list(leaves), self.out_spec)

    def _as_captured(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return a call with its arguments by position or by name as they were in the example."""
        count = self.in_spec.child(0).num_children
        if len(args) == count:
            return args, kwargs
        names = self.parameters[len(args) : count]
        if len(args) < count and len(names) == count - len(args) and kwargs.keys() >= set(names):
            rest = {name: value for name, value in kwargs.items() if name not in names}
            return (*args, *(kwargs[name] for name in names)), rest
        names = self.parameters[count : len(args)]
        if len(names) == len(args) - count and not kwargs.keys() & set(names):
            return args[:count], {**kwargs, **dict(zip(names, args[count:], strict=True))}
        return args, kwargs

    def _in_order(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        known = list(self.in_spec.child(1).context or ())
        ordered = {name: kwargs[name] for name in known if name in kwargs}
        return ordered | {name: value for name, value in kwargs.items() if name not in ordered}


def describe_inputs(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[InputLeaf, ...], list[Any], TreeSpec]:
    """Return the leaves of example inputs, their values and their structure.

    Raises:
        UnsupportedError: A leaf is neither a tensor nor a value to specialise on.
    """
    with_paths, spec = tree_flatten_with_path((args, dict(kwargs)))
    names = positional_names(function, len(args))
    leaves = []
    for path, value in with_paths:
        written = _written(path, names)
        if not isinstance(value, Hashable | slice):
            raise UnsupportedError(
                f"input {written} is a {type(value).__name__}, whose content may change unnoticed",
                hint="pass a tensor, or containers of tensors and plain values",
                stage="capture",
            )
        leaves.append(InputLeaf(written, _identifier(written), type_of(value), _source(path)))
    return tuple(leaves), [value for _, value in with_paths], spec


def parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the parameters of a function or module that a call gives by position or by name."""
    parameters = list(_parameters(function))
    names = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    has_others_before = any(each.kind is each.POSITIONAL_ONLY for each in parameters)
    return () if has_others_before else tuple(names)


def _parameters(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    try:
        return inspect.signature(getattr(function, "forward", function)).parameters.values()
    except (TypeError, ValueError):
        return ()


def positional_names(function: Callable[..., Any], count: int) -> list[str]:
    """Return how a user would write each of `count` positional arguments."""
    parameters = _parameters(function)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in positional]
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), "args")
    return names[:count] + [f"{rest}[{index}]" for index in range(count - len(names))]


def _written(path: Sequence[Any], names: Sequence[str]) -> str:
    kind, first, *rest = path
    is_positional = kind.idx == 0
    head = names[first.idx] if is_positional else str(first.key)
    return head + str(keystr(tuple(rest)))


def _source(path: Sequence[Any]) -> str:
    kind, first, *rest = path
    head = f"arg_{first.idx}" if kind.idx == 0 else str(first.key)
    return f"L[{head!r}]{keystr(tuple(rest))}"


def _identifier(path: str) -> str:
    return re.sub(r"\W+", "_", path).strip("_") or "input"


class _Leaf:
    def __repr__(self) -> str:
        return "*"


def _structure(spec: TreeSpec) -> str:
    """Return a call of this structure as a user would write it."""
    args, kwargs = tree_unflatten([_Leaf()] * spec.num_leaves, spec)
    written = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
    return f"({', '.join(written)})"


def _same(value: Any, expected: Any) -> bool:
    if type(value) is not type(expected):
        return False
    if isinstance(value, float | complex):
        return repr(value) == repr(expected)  # not-a-number is itself, and minus zero is not zero
    return bool(value == expected)


def _kind(value: Any) -> str:
    found = type_of(value)
    is_known = isinstance(found, TensorType | ObjectType)
    return str(found) if is_known else f"a value of type {type(value).__name__}"


def _check(leaf: InputLeaf, value: Any) -> None:
    if isinstance(leaf.expected, TensorType):
        if isinstance(value, Tensor) and leaf.expected.could_be(value):
            return
        what = _kind(value)
    elif isinstance(leaf.expected, ObjectType):
        found = type_of(value)
        if isinstance(found, ObjectType) and found == leaf.expected:
            return
        what = _kind(value)
    else:
        if _same(value, leaf.expected):
            return
        what = repr(value)
    raise InputError(
        f"input {leaf.path} was captured as {leaf.expected}, but is {what}",
        hint="capture the program again with inputs of this kind",
        stage="program",
    )
