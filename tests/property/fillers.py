"""What fills the fields of a template: a value, a number, a size or a setting that suits it."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from templates import DTYPES, FORMATS, NUMBERS, SIZES
from torch import Tensor

LONGEST_SIZE = 24
"""What a number may be to be a size."""


class Unfit(Exception):
    """Nothing in a program fits a field of a template."""


@dataclass
class Filler:
    """Chooses what fills the fields of a template; the first value chosen decides what suits it.

    Attributes:
        numbers: The choices, used one after the other; then always 0.
        tensors: The values so far, the latest first.
        constants: Those whose value is known.
        scalars: Names of Python numbers so far.
    """

    numbers: Sequence[int]
    tensors: dict[str, Tensor]
    constants: set[str]
    scalars: dict[str, Any]
    _first: Tensor | None = None
    _used: int = field(default=0, init=False)

    def fill(self, template: str) -> str:
        """Return the template with its fields filled."""
        parts = []
        for text, name, _, _ in string.Formatter().parse(template):
            parts.append(text)
            if name is not None:
                parts.append(getattr(self, f"_{name}")())
        return "".join(parts)

    def choose(self, options: Sequence[str]) -> str:
        """Return one of `options`.

        Raises:
            Unfit: There is none.
        """
        if not options:
            raise Unfit
        number = self.numbers[self._used] if self._used < len(self.numbers) else 0
        self._used += 1
        return options[number % len(options)]

    @property
    def first(self) -> Tensor:
        """The value that the others are chosen for."""
        if self._first is None:
            raise Unfit
        return self._first

    def _that(self, suits: Callable[[Tensor], bool]) -> str:
        name = self.choose([name for name, value in self.tensors.items() if suits(value)])
        if self._first is None:
            self._first = self.tensors[name]
        return name

    def _x(self) -> str:
        return self._that(lambda value: True)

    def _real(self) -> str:
        return self._that(lambda value: not value.is_complex())

    def _floating(self) -> str:
        return self._that(lambda value: value.is_floating_point())

    def _complex(self) -> str:
        return self._that(lambda value: value.is_complex())

    def _whole(self) -> str:
        return self._that(lambda value: value.dtype in (torch.int64, torch.int32, torch.uint8))

    def _matrix(self) -> str:
        return self._that(lambda value: value.dim() == 2 and value.is_floating_point())

    def _picture(self) -> str:
        return self._that(lambda value: value.dim() == 4)

    def _shaped(self) -> str:
        return self._that(lambda value: value.dim() > 0 and value.numel() > 0)

    def _trained(self) -> str:
        return self._that(lambda value: value.requires_grad)

    def _computed(self) -> str:
        return self._that(lambda value: value.is_floating_point() and _is_computed(value))

    def _constant(self) -> str:
        return self.choose(sorted(self.constants, reverse=True))

    def _factor(self) -> str:
        """A matrix to multiply with."""
        return self._that(
            lambda value: (
                value.dim() == 2
                and value.dtype is self.first.dtype
                and value.shape[:1] == self.first.shape[-1:]
            )
        )

    def _other(self) -> str:
        """A value that broadcasts with the first."""
        return self._that(lambda value: _broadcast(value, self.first) is not None)

    def _into(self) -> str:
        """A value that broadcasts to the shape of the first."""
        return self._that(lambda value: _broadcast(value, self.first) == self.first.shape)

    def _same(self) -> str:
        """A value of the same shape and type."""
        return self._that(
            lambda value: value.shape == self.first.shape and value.dtype is self.first.dtype
        )

    def _number(self) -> str:
        return self.choose([*NUMBERS, *self.scalars])

    def _scalar(self) -> str:
        return self.choose(list(self.scalars))

    def _length(self) -> str:
        """A number that can be a size, or a size."""
        sizes = [
            f"{name}.shape[{dim}]"
            for name, value in self.tensors.items()
            for dim in range(value.dim())
        ]
        numbers = [
            name
            for name, value in self.scalars.items()
            if type(value) is int and 0 <= value <= LONGEST_SIZE
        ]
        return self.choose([*reversed(numbers), *sizes])

    def _integer(self) -> str:
        numbers = [
            name
            for name, value in self.scalars.items()
            if type(value) is int and abs(value) <= LONGEST_SIZE
        ]
        return self.choose([*reversed(numbers), "2", "3", "1", "5", "0"])

    def _column(self) -> str:
        return self._that(lambda value: value.dim() == 1)

    def _one(self) -> str:
        return self._that(lambda value: value.numel() == 1 and not value.is_complex())

    def _dtype(self) -> str:
        return self.choose(DTYPES)

    def _format(self) -> str:
        return self.choose(FORMATS)

    def _truth(self) -> str:
        return self.choose(("False", "True"))

    def _size(self) -> str:
        return self.choose(SIZES)

    def _small(self) -> str:
        return self.choose(("1", "2", "3", "0"))

    def _dim(self) -> str:
        count = max(self.first.dim(), 1)
        return self.choose([str(dim) for dim in (*range(count), *range(-count, 0))])

    def _row(self) -> str:
        if not self.first.dim() or not self.first.shape[0]:
            raise Unfit
        count = self.first.shape[0]
        return self.choose([str(row) for row in (*range(count), -1)])

    def _places(self) -> str:
        """Indices into the first dimension."""
        if not self.first.dim() or not self.first.shape[0]:
            raise Unfit
        last = self.first.shape[0] - 1
        return self.choose([f"[{last}, 0]", "[0]", f"[0, 0, {last}]", f"[[0, {last}]]", "[]"])

    def _shape(self) -> str:
        """Another shape of as many elements."""
        count = self.first.numel()
        shapes = ["(-1,)", f"(1, {count})", f"({count}, 1)"]
        shapes += [f"({size}, -1)" for size in (2, 3, 4, 6) if count and count % size == 0]
        return self.choose(shapes)

    def _order(self) -> str:
        count = self.first.dim()
        orders = [tuple(reversed(range(count))), tuple(range(count))]
        orders += [(*range(1, count), 0)] if count > 1 else []
        return self.choose([str(order) for order in orders])


def _broadcast(one: Tensor, other: Tensor) -> torch.Size | None:
    try:
        return torch.broadcast_shapes(one.shape, other.shape)
    except RuntimeError:
        return None


def _is_computed(value: Tensor) -> bool:
    try:
        return value.grad_fn is not None
    except RuntimeError:  # a view that autograd has lost track of
        return False
