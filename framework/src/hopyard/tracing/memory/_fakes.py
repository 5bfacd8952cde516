"""Fake tensors made directly, without a trip through the dispatcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import SymInt, Tensor, is_inference_mode_enabled
from torch.nn import Parameter

from ..._torch.dispatch import (
    below_autograd,
    disable_torch_dispatch,
    is_transformed,
    preserve_dispatch_keys,
    use_meta_kernels,
)
from ..._torch.fake import (
    FakeTensor,
    FakeTensorMode,
    forbid_data_access,
    make_subclass,
    make_wrapper,
    reinterpret,
    share_storage,
)
from ._products import Products, UnforeseenProductError

_META: Final = torch.device("meta")
_empty_strided: Final = torch.empty_strided
_as_strided: Final = torch.ops.aten.as_strided.default


class _Element(Tensor):
    """A tensor that is made with a storage of a given size, before it becomes a fake one."""

    @classmethod
    def __torch_dispatch__(cls, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it never takes part in a program")


class FakeFactory:
    """Makes fake tensors of one fake mode.

    A fake tensor is a tensor on the meta device under a Python class with some attributes. Making
    one that way takes two to five microseconds; operators on fake tensors take a hundred and more.
    The attributes are those that the mode's own tensors have.

    Call `empty`, `view`, `wrap` and `snapshot` with torch's dispatch to tensor subclasses disabled,
    as `disable_torch_dispatch` does: a recipe needs it once for all it makes.
    """

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        self.fake_mode = fake_mode
        with disable_torch_dispatch():
            sample = FakeTensor(fake_mode, torch.empty(0, device="meta"), torch.device("cpu"))
        self._sample: dict[str, Any] = dict(sample.__dict__)
        self._attributes: dict[torch.device, dict[str, Any]] = {}
        self._protects = not fake_mode._allow_unsafe_data_ptr_access

    def empty(
        self,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        """Return a fake tensor with a new storage."""
        element = _empty_strided(shape, stride, dtype=dtype, device=_META)
        return self.wrap(element, device)

    def symbolic(
        self,
        numbers: Sequence[Any],
        products: Products,
        nbytes: int | SymInt,
        dtype: torch.dtype,
        device: torch.device,
        source: Tensor | None = None,
    ) -> Tensor:
        """Return a fake tensor whose numbers are the given ones, which nothing computes again.

        Args:
            numbers: Sizes, strides, offset into the storage, number of elements.
            products: How torch finds the numbers of such a tensor, and whether the tensor knows
                that it is contiguous.
            nbytes: Size of its storage.
            dtype: Element type.
            device: Its device.
            source: The fake tensor whose storage it shares; None if it has its own.

        Raises:
            UnforeseenProductError: torch finds these numbers in another way.
        """
        rank = products.rank
        is_contiguous = products.is_contiguous
        unused = products.announce(numbers)
        try:
            element = make_wrapper(
                _Element,
                numbers[:rank],
                strides=None if is_contiguous else numbers[rank:-2],
                storage_offset=None if is_contiguous else numbers[-2],
                dtype=dtype,
                device=_META,
                storage_size=nbytes if source is None else 0,
            )
            element.numel()
        finally:
            products.withdraw()
        if unused:
            raise UnforeseenProductError
        if source is None:
            return self.wrap(element, device)
        if type(numbers[-2]) is int:
            share_storage(element, source)
        else:
            shape_env = self.fake_mode.shape_env
            assert shape_env is not None
            # That an offset is none below zero is no assumption of the program's.
            with shape_env.suppress_guards():
                share_storage(element, source)
        return self.snapshot(element, device)

    def leaf(self, tensor: Tensor) -> Tensor | None:
        """Return the fake tensor of a real one, or None if only the fake mode itself can tell.

        A plain dense leaf that fills a storage which the mode has not seen needs none of the mode's
        care for views, subclasses and gradients. The mode is told about the result, so that it
        gives the same fake to the same tensor later and keeps aliases together.
        """
        if not self.is_new_leaf(tensor):
            return None
        with disable_torch_dispatch():
            element = _empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
            )
            if element.untyped_storage().nbytes() != tensor.untyped_storage().nbytes():
                return None
            fake = self.wrap(element, tensor.device, tensor.requires_grad)
        self.introduce(tensor, fake)
        return fake

    def is_new_leaf(self, tensor: Tensor) -> bool:
        """Say whether a real tensor is a plain dense leaf on a storage that the mode has not seen.

        It may have seen the tensor itself, or another one on that storage.
        """
        if type(tensor) not in (Tensor, Parameter) or not _is_plain_leaf(tensor):
            return False
        describer = self.fake_mode.fake_tensor_converter.meta_converter.describer
        return (
            tensor not in describer.lookup_tensor
            and tensor.untyped_storage() not in describer.lookup_storage
        )

    def introduce(self, tensor: Tensor, fake: Any) -> None:
        """Tell the mode that `fake` stands for a new leaf."""
        if type(tensor) is Parameter:
            fake.__dict__["_is_param"] = True
        converter = self.fake_mode.fake_tensor_converter.meta_converter
        describer = converter.describer
        storage = tensor.untyped_storage()
        converter.tensor_memo[describer.get_tensor_id(tensor)] = fake
        converter.storage_memo[describer.get_storage_id(storage)] = fake.untyped_storage()

    def view(
        self,
        source: Tensor,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        offset: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        """Return a fake tensor that shares the storage of the fake tensor `source`."""
        if (
            is_inference_mode_enabled()
            or source.is_inference()
            or source._has_symbolic_sizes_strides
        ):
            # A tensor that is made without the dispatcher has no version counter there, and is
            # no inference tensor elsewhere. Nor can symbolic offsets be read as plain ones.
            return self.dispatched_view(source, shape, stride, offset, dtype, device)
        if dtype is source.dtype:
            element = reinterpret(source, shape, stride, offset - int(source.storage_offset()))
        else:
            element = _empty_strided(shape, stride, dtype=dtype, device=_META)
            element.set_(source.untyped_storage(), offset, shape, stride)
        return self.snapshot(element, device)

    def dispatched_view(
        self,
        source: Tensor,
        shape: Sequence[int | SymInt],
        stride: Sequence[int | SymInt],
        offset: int | SymInt,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        """Return the same, for sizes that may be symbolic, at three times the cost."""
        # Autograd would number an operation of its own, and nodes tell its numbers.
        with preserve_dispatch_keys(), below_autograd():
            use_meta_kernels(True)
            self.fake_mode.in_kernel_invocation = True
            try:
                if dtype is source.dtype:
                    element = _as_strided(source, shape, stride, offset)
                else:
                    element = _empty_strided(shape, stride, dtype=dtype, device="meta")
                    element.set_(source.untyped_storage(), offset, shape, stride)
            finally:
                self.fake_mode.in_kernel_invocation = False
        return self.snapshot(element, device)

    def wrap(
        self, element: Tensor, device: torch.device, requires_grad: bool = False
    ) -> FakeTensor:
        """Return the fake tensor of a meta tensor with a storage that may be new.

        Whoever asks where its data are will be told that there are none.
        """
        if self._protects:
            forbid_data_access(element)
        return self.snapshot(element, device, requires_grad)

    def snapshot(
        self, tensor: Tensor, device: torch.device, requires_grad: bool = False
    ) -> FakeTensor:
        """Return a fake tensor that looks as the fake tensor `tensor` does now.

        It shares the storage and has no autograd history. Later in-place changes of size or stride
        do not reach it.
        """
        fake: FakeTensor = make_subclass(
            FakeTensor, tensor, requires_grad, dispatch_device=True, device_for_backend_keys=device
        )
        attributes = self._attributes.get(device)
        if attributes is None:
            attributes = self._attributes[device] = _roomy({**self._sample, "_fake_device": device})
        # Filling the empty dictionary that it has would enlarge that twice.
        fake.__dict__ = attributes.copy()
        return fake


def _is_plain_leaf(tensor: Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.is_leaf
        and not tensor._is_view()
        and tensor.storage_offset() == 0
        and tensor.device.type in ("cpu", "cuda")
        and not (
            tensor.is_quantized
            or tensor.is_nested
            or tensor.is_conj()
            or tensor.is_neg()
            or tensor.is_inference()
        )
        and not (tensor.requires_grad and tensor.grad is not None)
        and not tensor.__dict__
        and not is_transformed(tensor)
    )


def _roomy(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return `attributes` in a dictionary whose copies have room for a tensor's slot."""
    roomy = {**attributes, "": None}
    del roomy[""]
    return roomy
