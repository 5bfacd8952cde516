"""What a tensor with symbolic sizes looks like, and how to make one that looks the same.

Equal numbers need not be one number: a program that reads the size of a tensor gets the node of the
tensor that the size was first seen on. So two things are told apart:

- a *look* says what sizes and strides are as expressions, and which of them are one number; tensors
  of one look share it, and it is part of the key of a call
- *symbolic metadata* holds the numbers of one tensor

A recipe for such a tensor says for each of its numbers whether it is one of the operands' numbers,
passed on, or a new one of a known expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from ..._torch.graphs import TensorMetadata, extract_tensor_metadata
from ..._torch.symbolic import ShapeEnv, SymNode
from ..symbols._deferred import Reading, Unread


class Look:
    """What tensors with symbolic sizes have in common; compared by identity.

    Attributes:
        shape_env: What is known of the symbols.
        memory_format: What `meta["tensor_meta"]` says of it, once somebody has asked.
    """

    __slots__ = ("is_described", "memory_format", "shape_env")

    def __init__(self, shape_env: ShapeEnv) -> None:
        self.shape_env = shape_env
        self.is_described = False
        self.memory_format: Any = None


class SymbolicMetadata(Unread):
    """The numbers of one tensor.

    One list holds them all, and one object tells also how they are read off a node: the collector
    looks at each object that a node keeps alive.

    Attributes:
        look: What they are as expressions.
        version: The replacements of symbols that the look goes by.
        values: The size of each dimension, the stride of each, the offset into the storage, and the
            number of elements, in the order in which recipes hold them; nobody changes it.
        dtype: Element type.
        device: The device, the fake one for a fake tensor.
        nbytes: Size of the storage.
    """

    __slots__ = ("_described", "device", "dtype", "look", "nbytes", "version")

    def __init__(
        self,
        values: Sequence[Any],
        dtype: torch.dtype,
        device: torch.device,
        nbytes: int | SymInt,
    ) -> None:
        # Typed as integers in torch, they may be symbolic.
        self.values = values
        self.dtype = dtype
        self.device = device
        self.nbytes = nbytes
        self.look: Look
        self.version = -1
        self._described: TensorMetadata | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> SymbolicMetadata:
        """Return what a tensor tells of itself."""
        values = (*tensor.shape, *tensor.stride(), tensor.storage_offset(), tensor.numel())
        return cls(values, tensor.dtype, tensor.device, tensor.untyped_storage().nbytes())

    def like(
        self, values: Sequence[Any], readings: Sequence[Reading], source: Node
    ) -> SymbolicMetadata:
        """Return the metadata of a tensor of these numbers that looks as this one does.

        Args:
            values: Its numbers.
            readings: How to read the symbolic ones among them off a node.
            source: The node.
        """
        metadata = SymbolicMetadata(values, self.dtype, self.device, self.nbytes)
        metadata.look, metadata.version = self.look, self.version
        metadata.readings, metadata.source = readings, source
        return metadata

    @property
    def rank(self) -> int:
        """How many dimensions there are."""
        return len(self.values) // 2 - 1

    @property
    def numbers(self) -> list[SymInt]:
        """Those that are symbolic."""
        return [number for number in self.values if type(number) is SymInt]

    def still_describes(self, tensor: Tensor) -> bool:
        """Say whether `tensor` has the same numbers; asks for identity, which makes no guard.

        Each operand of each operator is asked: `make bench-trace` shows what it costs.
        """
        values = self.values
        shape = tensor.shape
        if tensor.dtype is not self.dtype or len(shape) != len(values) // 2 - 1:
            return False
        numbers = (*shape, *tensor.stride(), tensor.storage_offset())
        for number, known in zip(numbers, values, strict=False):
            if type(number) is not SymInt:
                if number is not known and (type(known) is SymInt or number != known):
                    return False
            elif type(known) is not SymInt or number.node is not known.node:
                return False
        return True

    def tensor_meta(self, tensor: Tensor) -> TensorMetadata:
        """Return what `meta["tensor_meta"]` says of a tensor of this metadata."""
        known = self._described
        requires_grad = tensor.requires_grad
        if known is None or known.requires_grad is not requires_grad:
            known = self._described = self._describe(tensor, requires_grad)
        return known

    def forget_description(self) -> None:
        """Describe the tensor anew when somebody asks."""
        self._described = None

    def _describe(self, tensor: Tensor, requires_grad: bool) -> TensorMetadata:
        look = self.look
        if not look.is_described:
            described: TensorMetadata = extract_tensor_metadata(tensor)
            look.memory_format, look.is_described = described.memory_format, True
            return described
        values = self.values
        rank = len(values) // 2 - 1
        shape, stride = torch.Size(values[:rank]), tuple(values[rank:-2])
        # As `TensorMetadata(...)` does, at half the cost.
        return tuple.__new__(
            TensorMetadata,
            (shape, self.dtype, requires_grad, stride, look.memory_format, False, {}),
        )


class Looks:
    """The looks of one trace."""

    def __init__(self, shape_env: ShapeEnv) -> None:
        self.shape_env = shape_env
        self._known: dict[tuple[Any, ...], Look] = {}

    def of(self, tensor: Tensor) -> SymbolicMetadata | None:
        """Return the metadata of a dense tensor, or None if its sizes depend on data."""
        metadata = SymbolicMetadata.of(tensor)
        if not all(is_backed(number) for number in metadata.numbers):
            return None
        self.look_up(metadata)
        return metadata

    def look_up(self, metadata: SymbolicMetadata) -> None:
        """Give metadata the look that its numbers have now; symbols may be replaced any time."""
        metadata.version = self.shape_env._replacements_version_counter
        first: dict[SymNode, int] = {}
        described: list[Any] = []
        for number in metadata.values:
            if type(number) is SymInt:
                node = number.node
                described += (node.expr, first.setdefault(node, len(first)))
            else:
                described.append(number)
        nbytes = metadata.nbytes
        key = (
            metadata.dtype,
            metadata.device,
            metadata.rank,
            nbytes.node.expr if isinstance(nbytes, SymInt) else nbytes,
            *described,
        )
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Look(self.shape_env)
        metadata.look = found
        # Its description tells what is known of the look.
        metadata.forget_description()


def is_backed(number: Any) -> bool:
    """Say whether a symbolic number has an example value, and is an ordinary number."""
    node = number.node
    return (
        type(node._hint) is node.pytype
        and node.constant is None
        and not node.shape_env._translation_validation_enabled
    )


def identities(values: Sequence[int | SymInt]) -> list[Any]:
    """Return what is equal for the same numbers: nodes of symbolic ones compare by identity."""
    return [value.node if type(value) is SymInt else value for value in values]
