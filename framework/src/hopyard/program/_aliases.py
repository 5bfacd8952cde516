"""Results that share memory with what a program was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import SymInt, Tensor

from ._operands import storage_of


@dataclass(frozen=True, slots=True)
class View:
    """A part of a tensor's memory.

    Attributes:
        shape: Sizes of the view.
        stride: Strides of the view.
        offset: Where the view begins, counted from where the tensor does.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def between(cls, view: Tensor, base: Tensor) -> View:
        """Return what `view` is of `base`, whose memory it shares."""
        offset = int(view.storage_offset()) - int(base.storage_offset())
        return cls(tuple(view.shape), tuple(view.stride()), offset)

    def of(self, tensor: Tensor) -> Tensor:
        """Return the view of another tensor of the same layout."""
        return tensor.as_strided(self.shape, self.stride, tensor.storage_offset() + self.offset)


@dataclass(frozen=True, slots=True)
class Alias:
    """One leaf of the result is an operand, or a view of it.

    A graph is pure: what it returns for an operand that the program changes is a new tensor. The
    program returns the operand instead, as the captured function did.

    Attributes:
        result: The position of the leaf in the result.
        operand: The name of the placeholder.
        view: None if the leaf is the operand itself.
    """

    result: int
    operand: str
    view: View | None = None

    def of(self, operand: Tensor) -> Tensor:
        """Return the leaf for a given operand."""
        return operand if self.view is None else self.view.of(operand)


def find_aliases(results: Sequence[Any], operands: Mapping[str, Any]) -> Iterator[Alias]:
    """Yield which of `results` are operands or views of them."""
    tensors = {name: value for name, value in operands.items() if isinstance(value, Tensor)}
    themselves = {id(value): name for name, value in tensors.items()}
    owners = {storage_of(value): name for name, value in tensors.items()}
    for index, result in enumerate(results):
        if not isinstance(result, Tensor):
            continue
        if id(result) in themselves:
            yield Alias(index, themselves[id(result)])
            continue
        storage = storage_of(result)
        if storage is None or storage not in owners:
            continue
        owner = tensors[owners[storage]]
        if _reads_alike(result, owner):
            yield Alias(index, owners[storage], View.between(result, owner))


def _reads_alike(view: Tensor, base: Tensor) -> bool:
    """Return whether the view can be made of another base."""
    if any(isinstance(each, SymInt) for each in (*view.shape, *view.stride(), *base.stride())):
        return False
    return (view.dtype, view.is_conj(), view.is_neg()) == (
        base.dtype,
        base.is_conj(),
        base.is_neg(),
    )
