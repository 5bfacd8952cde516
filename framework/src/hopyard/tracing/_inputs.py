"""Example inputs as the values that a capture computes with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .._torch.dispatch import is_transformed
from .._torch.fake import (
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    detect_fake_mode,
)
from .._torch.objects import is_opaque_reference_type, to_fake_object
from .._torch.symbolic import ShapeEnv, input_source
from ..errors import UnsupportedError, UsageError
from ._techniques import Techniques
from .memory._fakes import FakeFactory
from .memory._leaves import SymbolicLeaves


def fake_mode_for(
    values: Iterable[Any], *, allow_non_fake_inputs: bool = False, symbolic: bool = False
) -> FakeTensorMode:
    """Return the fake mode that is active or that `values` belong to, or a new one.

    In a new one, what depends on data gets a symbol; sizes of inputs get one if `symbolic`.

    Raises:
        UsageError: They belong to several, or to one that has no symbols.
    """
    values = list(values)
    if len({id(value.fake_mode) for value in values if isinstance(value, FakeTensor)}) > 1:
        raise UsageError(
            "the example inputs are fake tensors of several modes",
            hint="make them all with one FakeTensorMode",
            stage="capture",
        )
    found: FakeTensorMode | None = detect_fake_mode(values)
    if found is not None:
        if symbolic and found.shape_env is None:
            raise UsageError(
                "the active fake mode, or that of the example inputs, has no symbols",
                hint="make it with FakeTensorMode(shape_env=ShapeEnv())",
                stage="capture",
            )
        return found
    fake_mode = FakeTensorMode(
        # A kernel that is run to see what it returns cannot run on sizes without values.
        allow_fallback_kernels=not symbolic,
        allow_non_fake_inputs=allow_non_fake_inputs,
        shape_env=ShapeEnv(),
        static_shapes=not symbolic,
    )
    fake_mode._allow_unsafe_data_ptr_access = False
    return fake_mode


def refuse_transformed(values: Iterable[Any], what: str) -> None:
    """Refuse tensors of a function transform around the capture.

    Operators see what is inside of them, which nobody tracks, so the graph would compute with the
    values of the example.

    Raises:
        UnsupportedError: One of them is such a tensor.
    """
    if any(isinstance(value, Tensor) and is_transformed(value) for value in values):
        raise UnsupportedError(
            f"{what} belongs to a function transform (vmap, grad, functionalize ...) that is "
            "active around the capture",
            hint="capture the transformed function: make_fx(torch.vmap(f)), not vmap of make_fx(f)",
            stage="capture",
        )


def symbolize(
    values: Iterable[Any], fake_mode: FakeTensorMode, *, integers: bool = True
) -> list[Any]:
    """Return `values` with tensors made fake as `fake_mode` makes them, sizes as symbols.

    Sizes and integers of one value share a symbol; 0 and 1 stay numbers. Symbols are named after
    the position of their tensor, as torch names them.

    Args:
        values: Tensors and other values.
        fake_mode: It decides which sizes are symbols.
        integers: Whether integers become symbols as well.

    Raises:
        UnsupportedError: Nobody can make one of them fake.
    """

    def convert(tensor: Tensor, source: Any) -> Tensor:
        return _converted(tensor, fake_mode, source=source)

    if Techniques.chosen().direct_inputs and SymbolicLeaves.suits(fake_mode):
        convert = SymbolicLeaves(fake_mode, convert).make
    made: list[Any] = []
    count = 0
    for value in values:
        source = input_source(f"input{count}")
        if isinstance(value, Tensor):
            count += 1
            made.append(convert(value, source))
        elif integers and type(value) is int:
            made.append(_symbol(value, fake_mode.shape_env, source))
        else:
            made.append(fake_object(value, fake_mode))
    return made


def _symbol(value: int, shape_env: ShapeEnv | None, source: Any) -> Any:
    assert shape_env is not None
    expression = shape_env.create_symbol(value, source, positive=None)
    return shape_env.create_symintnode(expression, hint=value, source=source)


def fakify(values: Iterable[Any], fake_mode: FakeTensorMode) -> list[Any]:
    """Return `values` with tensors and objects made fake; aliases among them stay aliases.

    Raises:
        UnsupportedError: Nobody can make one of them fake.
    """
    if fake_mode.propagate_real_tensors or not Techniques.chosen().direct_inputs:
        return [
            _converted(value, fake_mode, static_shapes=True)
            if isinstance(value, Tensor)
            else fake_object(value, fake_mode)
            for value in values
        ]
    fakes = FakeFactory(fake_mode)
    return [
        _fake(value, fakes) if isinstance(value, Tensor) else fake_object(value, fake_mode)
        for value in values
    ]


def fake_object(value: Any, fake_mode: FakeTensorMode) -> Any:
    """Return `value` as a fake object if it is a script object or an opaque one with an identity.

    A generator stays itself: kernels of random operators take no other.
    """
    if isinstance(value, torch.Generator):
        return value
    if isinstance(value, torch.ScriptObject) or is_opaque_reference_type(type(value)):
        return to_fake_object(fake_mode, value)
    return value


def _fake(tensor: Tensor, fakes: FakeFactory) -> Tensor:
    made = fakes.leaf(tensor)
    return _converted(tensor, fakes.fake_mode, static_shapes=True) if made is None else made


def _converted(tensor: Tensor, fake_mode: FakeTensorMode, **how: Any) -> Tensor:
    try:
        return fake_mode.from_tensor(tensor, **how)
    except (RuntimeError, UnsupportedFakeTensorException) as error:
        raise UnsupportedError(
            f"an example input ({tensor.dtype}, {tensor.layout}) cannot be made fake: {error}",
            hint='capture it in mode "real", or pass the plain tensors that it is made from',
            stage="capture",
        ) from error
