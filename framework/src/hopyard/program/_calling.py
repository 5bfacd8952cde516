"""The calling convention of a program: which inputs it takes, and what is wrong with others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._torch.pytree import (
    TreeSpec,
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_unflatten,
)
from ..errors import InputError, UnsupportedError


@dataclass(frozen=True, slots=True)
class TensorType:
    """What an input tensor must be."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> TensorType:
        """Return the type of `tensor`."""
        return cls(tuple(tensor.shape), tensor.dtype, tensor.device)

    def __str__(self) -> str:
        shape = ", ".join(str(size) for size in self.shape)
        return f"{str(self.dtype).removeprefix('torch.')}[{shape}] on {self.device}"


@dataclass(frozen=True)
class InputLeaf:
    """One leaf of the example inputs.

    Attributes:
        path: How a user would write it, for example `batch['mask']`.
        name: The path as an identifier, for the graph's placeholder.
        expected: A :class:`TensorType`, or the value itself, which the capture specialised on.
    """

    path: str
    name: str
    expected: Any


@dataclass(frozen=True)
class CallingConvention:
    """The structure of a program's arguments and results.

    Attributes:
        inputs: The leaves of `(args, kwargs)`, in order.
        in_spec: The structure of `(args, kwargs)`.
        out_spec: The structure of the result.
    """

    inputs: tuple[InputLeaf, ...]
    in_spec: TreeSpec
    out_spec: TreeSpec

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return the leaves of a call, checked.

        Raises:
            InputError: The call does not fit what was captured; the message names the input.
        """
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
        return leaves

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """Return the program's result in the structure of the captured function's."""
        return tree_unflatten(list(leaves), self.out_spec)

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
    names = _positional_names(function, len(args))
    leaves = []
    for path, value in with_paths:
        written = _written(path, names)
        if not isinstance(value, Hashable | slice):
            raise UnsupportedError(
                f"input {written} is a {type(value).__name__}, whose content may change unnoticed",
                hint="pass a tensor, or containers of tensors and plain values",
                stage="capture",
            )
        expected = TensorType.of(value) if isinstance(value, Tensor) else value
        leaves.append(InputLeaf(written, _identifier(written), expected))
    return tuple(leaves), [value for _, value in with_paths], spec


def _positional_names(function: Callable[..., Any], count: int) -> list[str]:
    forward = getattr(function, "forward", function)
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in positional]
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), "args")
    return names[:count] + [f"{rest}[{index}]" for index in range(count - len(names))]


def _written(path: Sequence[Any], names: Sequence[str]) -> str:
    kind, first, *rest = path
    is_positional = kind.idx == 0
    head = names[first.idx] if is_positional else str(first.key)
    return head + str(keystr(tuple(rest)))


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


def _check(leaf: InputLeaf, value: Any) -> None:
    if isinstance(leaf.expected, TensorType):
        found = TensorType.of(value) if isinstance(value, Tensor) else None
        if found == leaf.expected:
            return
        what = str(found) if found else f"a value of type {type(value).__name__}"
    else:
        if _same(value, leaf.expected):
            return
        what = repr(value)
    raise InputError(
        f"input {leaf.path} was captured as {leaf.expected}, but is {what}",
        hint="capture the program again with inputs of this kind",
        stage="program",
    )
