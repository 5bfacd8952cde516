"""Fake tensors made directly, without a trip through the dispatcher."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from .._torch.dispatch import disable_torch_dispatch, preserve_dispatch_keys, use_meta_kernels
from .._torch.fake import FakeTensor, FakeTensorMode, forbid_data_access

_make_subclass: Final = Tensor._make_subclass
_empty_strided: Final = torch.empty_strided
_as_strided: Final = torch.ops.aten.as_strided.default


class FakeFactory:
    """Makes fake tensors of one fake mode.

    A fake tensor is a tensor on the meta device under a Python class with some attributes. Making one that
    way takes two to five microseconds; operators on fake tensors take a hundred and more. The attributes
    are those that the mode's own tensors have.
    """

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        self.fake_mode = fake_mode
        with disable_torch_dispatch():
            sample = FakeTensor(fake_mode, torch.empty(0, device="meta"), torch.device("cpu"))
        self._attributes: dict[str, Any] = dict(sample.__dict__)
        self._protected = not fake_mode._allow_unsafe_data_ptr_access

    def empty(
        self,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        """Return a fake tensor with a new storage."""
        with disable_torch_dispatch():
            element = _empty_strided(shape, stride, dtype=dtype, device="meta")
            return self._wrap(element, device)

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
        with disable_torch_dispatch():
            with preserve_dispatch_keys():
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
            return self._wrap(element, device)

    def snapshot(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Return a fake tensor that looks as the fake tensor `tensor` does now.

        It shares the storage and has no autograd history. Later in-place changes of size or stride do not
        reach it.
        """
        with disable_torch_dispatch():
            return self._wrap(tensor, device)

    def _wrap(self, element: Tensor, device: torch.device) -> Tensor:
        fake: Tensor = _make_subclass(
            FakeTensor, element, False, dispatch_device=True, device_for_backend_keys=device
        )
        if self._protected:
            forbid_data_access(fake)
        attributes = fake.__dict__
        attributes.update(self._attributes)
        attributes["_fake_device"] = device
        return fake
