"""Results that share memory with what a program was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sympy import Basic  # type: ignore[import-untyped]
from torch import Tensor

from ._operands import storage_of
from ._sizes import Bindings, Size, free_symbols, known, size_of


@dataclass(frozen=True, slots=True)
class View:
    """A part of a tensor's memory.

    Attributes:
        shape: Sizes of the view; those that differ from call to call are expressions.
        stride: Strides of the view.
        offset: Where the view begins, counted from where the tensor does.
    """

    shape: tuple[Size, ...]
    stride: tuple[Size, ...]
    offset: Size

    @classmethod
    def between(cls, view: Tensor, base: Tensor) -> View:
        """Return what `view` is of `base`, whose memory it shares."""
        shape, stride = (tuple(map(size_of, each)) for each in (view.shape, view.stride()))
        return cls(shape, stride, size_of(view.storage_offset() - base.storage_offset()))

    @property
    def symbols(self) -> set[Basic]:
        """The symbols in the expressions."""
        sizes = (*self.shape, *self.stride, self.offset)
        return {symbol for size in sizes for symbol in free_symbols(size)}

    def of(self, tensor: Tensor, bindings: Bindings) -> Tensor:
        """Return the view of another tensor of the same layout, for sizes of symbols."""
        shape, stride = (known(each, bindings) for each in (self.shape, self.stride))
        (offset,) = known((self.offset,), bindings)
        return tensor.as_strided(shape, stride, int(tensor.storage_offset()) + offset)


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

    def of(self, operand: Tensor, bindings: Bindings) -> Tensor:
        """Return the leaf for a given operand and sizes of symbols."""
        return operand if self.view is None else self.view.of(operand, bindings)


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
    return (view.dtype, view.is_conj(), view.is_neg()) == (
        base.dtype,
        base.is_conj(),
        base.is_neg(),
    )
