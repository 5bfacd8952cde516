"""Example inputs that look like ones before, made fake with symbolic sizes.

A model has hundreds of parameters in a few shapes. Torch describes each, asks for a symbol for each
size, multiplies sizes to strides, and checks what it has made, in half a millisecond. For the
second plain leaf of a shape all that is known: sizes that are equal share a symbol, and strides
follow from them. What remains is to tell what is known of symbols that they have one more source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, is_inference_mode_enabled

from ..._torch.dispatch import disable_torch_dispatch
from ..._torch.fake import FakeTensorMode
from ..._torch.symbolic import is_decided_statically, size_source
from ._fakes import FakeFactory
from ._numbers import Numbers
from ._symbolic import Looks
from ._symbolic_outputs import SymbolicOutput, symbolic_output


class SymbolicLeaves:
    """Makes leaves fake, with sizes as symbols.

    Args:
        fake_mode: It decides which sizes are symbols.
        convert: Makes a tensor of a source fake the long way.
    """

    def __init__(self, fake_mode: FakeTensorMode, convert: Callable[[Tensor, Any], Tensor]) -> None:
        self._convert = convert
        self._fakes = FakeFactory(fake_mode)
        assert fake_mode.shape_env is not None
        self._shape_env = fake_mode.shape_env
        self._looks = Looks(self._shape_env)
        self._known: dict[tuple[Any, ...], SymbolicOutput | None] = {}

    @classmethod
    def suits(cls, fake_mode: FakeTensorMode) -> bool:
        """Say whether equal sizes share a symbol in `fake_mode`, and nobody watches them."""
        shape_env = fake_mode.shape_env
        return (
            type(fake_mode) is FakeTensorMode
            and shape_env is not None
            and not fake_mode.propagate_real_tensors
            and not fake_mode.static_shapes
            and shape_env.duck_shape
            and shape_env.specialize_zero_one
            and not shape_env.should_record_events
            and not shape_env._translation_validation_enabled
            and not is_decided_statically()
            and not is_inference_mode_enabled()
        )

    def make(self, tensor: Tensor, source: Any) -> Tensor:
        """Return the fake tensor of a real one that comes from `source`."""
        if not self._is_simple(tensor):
            return self._convert(tensor, source)
        key = (
            tensor.shape,
            # Where there is one element in a dimension, it may be any.
            tensor.stride(),
            tensor.dtype,
            tensor.device,
        )
        if key not in self._known:
            made = self._convert(tensor, source)
            self._known[key] = self._learned(made)
            return made
        recipe = self._known[key]
        if recipe is None:
            return self._convert(tensor, source)
        for index, size in enumerate(tensor.shape):
            if size > 1:
                self._shape_env.create_symbol(size, size_source(source, index))
        with disable_torch_dispatch():
            made = recipe.fresh(self._fakes)
            if tensor.requires_grad:
                made.requires_grad = True
        self._fakes.introduce(tensor, made)
        return made

    def _is_simple(self, tensor: Tensor) -> bool:
        return (
            self._fakes.is_new_leaf(tensor)
            # A number is a symbol of its own.
            and tensor.dim() > 0
            and tensor.is_contiguous()
            and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
            and not (tensor.requires_grad and tensor.grad_dtype != tensor.dtype)
        )

    def _learned(self, made: Tensor) -> SymbolicOutput | None:
        if not made._has_symbolic_sizes_strides:
            return None
        metadata = self._looks.of(made)
        if metadata is None:
            return None
        recipe = symbolic_output(made, metadata, None, (), None, Numbers(()), self._fakes)
        return recipe if isinstance(recipe, SymbolicOutput) else None
