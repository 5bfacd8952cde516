"""Example inputs as the values that a capture computes with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from .._torch.fake import FakeTensor, FakeTensorMode, detect_fake_mode
from .._torch.symbolic import ShapeEnv
from ..errors import UsageError
from ._techniques import Techniques
from .memory._fakes import FakeFactory


def fake_mode_for(values: Iterable[Any], *, allow_non_fake_inputs: bool = False) -> FakeTensorMode:
    """Return the fake mode that is active or that `values` belong to, or a new one.

    In a new one, inputs have static sizes, and what depends on data gets a symbol.

    Raises:
        UsageError: They belong to several.
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
        return found
    fake_mode = FakeTensorMode(
        allow_fallback_kernels=True,
        allow_non_fake_inputs=allow_non_fake_inputs,
        shape_env=ShapeEnv(),
        static_shapes=True,
    )
    fake_mode._allow_unsafe_data_ptr_access = False
    return fake_mode


def fakify(values: Iterable[Any], fake_mode: FakeTensorMode) -> list[Any]:
    """Return `values` with tensors made fake; aliases among them stay aliases."""
    if not Techniques.chosen().direct_inputs:
        return [
            fake_mode.from_tensor(value, static_shapes=True) if isinstance(value, Tensor) else value
            for value in values
        ]
    fakes = FakeFactory(fake_mode)
    return [_fake(value, fakes) if isinstance(value, Tensor) else value for value in values]


def _fake(tensor: Tensor, fakes: FakeFactory) -> Tensor:
    made = fakes.leaf(tensor)
    if made is None:
        made = fakes.fake_mode.from_tensor(tensor, static_shapes=True)
    return made
