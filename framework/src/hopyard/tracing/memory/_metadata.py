"""What a tensor looks like from outside, as shared values that compare by identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._torch.graphs import TensorMetadata
from ..._torch.symbolic import ShapeEnv
from ._symbolic import Looks, SymbolicMetadata

_MEMORY_FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


class Metadata:
    """Size, stride, type, device and storage size of plain dense tensors.

    Two tensors that look the same share one object, so that a look-up by metadata hashes an
    identity.

    Attributes:
        shape: Size of each dimension.
        stride: Stride of each dimension, in elements.
        offset: Offset into the storage, in elements.
        dtype: Element type.
        device: The device, the fake one for a fake tensor.
        nbytes: Size of the storage; None if it was not looked at.
        plain: What `meta["tensor_meta"]` says of a tensor that does not require grad.
        trained: What it says of one that does.
    """

    __slots__ = (
        "device",
        "dtype",
        "nbytes",
        "offset",
        "plain",
        "shape",
        "stride",
        "trained",
    )

    def __init__(self, tensor: Tensor, nbytes: int | None) -> None:
        self.shape = tuple(tensor.shape)
        self.stride = tensor.stride()
        self.offset = int(tensor.storage_offset())
        self.dtype = tensor.dtype
        self.device = tensor.device
        self.nbytes = nbytes
        self.plain = TensorMetadata(
            tensor.shape, self.dtype, False, self.stride, _memory_format(tensor), False, {}
        )
        self.trained = self.plain._replace(requires_grad=True)

    def tensor_meta(self, tensor: Tensor) -> TensorMetadata:
        """Return what `meta["tensor_meta"]` says of a tensor of this metadata."""
        return self.trained if tensor.requires_grad else self.plain

    def still_describes(self, tensor: Tensor) -> bool:
        """Say whether `tensor` looks as it did; `.data = ...` and resizing change it unseen."""
        return (
            # Comparing a symbolic size would make a guard.
            not tensor._has_symbolic_sizes_strides
            and tensor.shape == self.shape
            and tensor.stride() == self.stride
            and tensor.storage_offset() == self.offset
            and tensor.dtype is self.dtype
        )

    @property
    def fills_storage(self) -> bool:
        """Whether a new tensor of this shape and stride would have a storage of this size."""
        if self.offset:
            return False
        extent = 0
        if all(self.shape):
            extent = 1 + sum(
                (size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True)
            )
        return extent * self.dtype.itemsize == self.nbytes


class MetadataTable:
    """The metadata seen in one trace.

    Args:
        shape_env: What is known of symbols; None in a trace without any.
        storages: Whether to tell tensors apart by the sizes of their storages. Looking at a storage
            counts as a use of it for as long as it lives, and autograd adds gradients in place only
            if nobody else uses their storage.

    Attributes:
        looks: Those of tensors with symbolic sizes; None in a trace without symbols.
    """

    def __init__(self, shape_env: ShapeEnv | None = None, *, storages: bool = True) -> None:
        self._storages = storages
        self._known: dict[tuple[Any, ...], Metadata] = {}
        self.looks = None if shape_env is None else Looks(shape_env)

    def of(self, tensor: Tensor) -> Metadata | SymbolicMetadata | None:
        """Return the metadata of a plain dense tensor, or None for any other kind.

        Sparse, quantized, conjugated, negated, nested and zero tensors, and those whose sizes
        depend on data, have state that sizes and strides do not tell.
        """
        if tensor.layout is not torch.strided or tensor.is_quantized:
            return None
        if tensor._is_zerotensor() or tensor.is_conj() or tensor.is_neg():
            return None
        try:
            nbytes = tensor.untyped_storage().nbytes() if self._storages else None
        except NotImplementedError:
            # A tensor of a function transform has no storage of its own.
            return None
        if tensor._has_symbolic_sizes_strides or type(nbytes) not in (int, type(None)):
            return None if self.looks is None else self.looks.of(tensor)
        key = (
            tensor.shape,
            tensor.stride(),
            tensor.storage_offset(),
            tensor.dtype,
            tensor.device,
            nbytes,
        )
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Metadata(tensor, nbytes)
        return known


def _memory_format(tensor: Tensor) -> torch.memory_format | None:
    # torch's own description asks the same of each dimension in Python, at many times the cost.
    for memory_format in _MEMORY_FORMATS:
        if tensor.is_contiguous(memory_format=memory_format):
            return memory_format
    return None
