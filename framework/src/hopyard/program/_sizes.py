"""Sizes that differ from call to call: expressions of symbols, and what is known of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import sympy  # type: ignore[import-untyped]
from torch import SymInt

from ..errors import InputError
from ._evaluation import evaluated

Size: TypeAlias = Any
"""An integer, or a sympy expression of the symbols of a program."""
Bindings: TypeAlias = Mapping[sympy.Symbol, int]


def size_of(number: int | SymInt) -> Size:
    """Return a size as a plain value."""
    if not isinstance(number, SymInt):
        return number
    expression = number.node.expr
    return int(expression) if expression.is_number else expression


def known(sizes: Iterable[Size], bindings: Bindings) -> tuple[int, ...]:
    """Return sizes as integers, given those that symbols stand for."""
    return tuple(
        int(evaluated(each, bindings)) if isinstance(each, sympy.Basic) else each for each in sizes
    )


def free_symbols(size: Size) -> set[sympy.Symbol]:
    """Return the symbols of a size."""
    return set(size.free_symbols) if isinstance(size, sympy.Basic) else set()


@dataclass(frozen=True, slots=True)
class Range:
    """The sizes that a symbol stands for.

    Attributes:
        symbol: The symbol.
        least: The smallest size.
        greatest: The largest, or None if there is none.
    """

    symbol: sympy.Symbol
    least: int
    greatest: int | None

    def __contains__(self, size: int) -> bool:
        return self.least <= size and (self.greatest is None or size <= self.greatest)

    def __str__(self) -> str:
        upper = "" if self.greatest is None else f" <= {self.greatest}"
        return f"{self.least} <= {self.symbol}{upper}"


@dataclass(frozen=True, slots=True)
class Symbols:
    """What must hold of the symbols in the sizes of inputs.

    Attributes:
        ranges: One for each symbol.
        conditions: What the capture decided by, which must come out alike in every call.
    """

    ranges: tuple[Range, ...] = ()
    conditions: tuple[sympy.Basic, ...] = ()

    def check(self, bindings: Bindings, names: Mapping[sympy.Symbol, Dimension]) -> None:
        """Refuse sizes that the graph is not right for.

        Args:
            bindings: The sizes.
            names: The dimension that each symbol was read from.

        Raises:
            InputError: A size is out of range, or a condition does not hold.
        """
        for each in self.ranges:
            if each.symbol in bindings and bindings[each.symbol] not in each:
                raise InputError(
                    f"{names[each.symbol]} is {bindings[each.symbol]}, "
                    f"but the program was captured for {each}",
                    hint="capture the program again with a wider range",
                    stage="program",
                )
        for condition in self.conditions:
            if not _holds(condition, bindings):
                sizes = ", ".join(
                    f"{names[symbol]} is {bindings[symbol]}"
                    for symbol in sorted(condition.free_symbols, key=str)
                    if symbol in bindings
                )
                raise InputError(
                    f"the program was captured for sizes with {condition}, but {sizes}",
                    hint="capture the program again with inputs of these sizes",
                    stage="program",
                )


def _holds(condition: sympy.Basic, bindings: Bindings) -> bool:
    try:
        return bool(evaluated(condition, bindings) not in (False, sympy.false))
    except (ArithmeticError, AssertionError):
        return False  # such as the remainder of a division by zero


NO_SYMBOLS = Symbols()
"""What holds of programs whose sizes are fixed."""


class Dimension(NamedTuple):
    """Where a size was read."""

    axis: int
    path: str

    def __str__(self) -> str:
        return f"dimension {self.axis} of {self.path}"


def bind(
    shapes: Iterable[tuple[str, Sequence[Size], Sequence[int]]],
) -> tuple[dict[sympy.Symbol, int], dict[sympy.Symbol, Dimension]]:
    """Return the sizes of symbols, and the dimension that each was read from.

    Args:
        shapes: The path of a tensor, the shape that it should have, and the one that it has.

    Raises:
        InputError: A size contradicts the others.
    """
    bindings: dict[sympy.Symbol, int] = {}
    names: dict[sympy.Symbol, Dimension] = {}
    derived: list[tuple[Dimension, sympy.Basic, int]] = []
    # A symbol of its own first: what is derived from it then follows.
    for name, expected, size in _dimensions(shapes):
        if not expected.is_Symbol or bindings.get(expected, size) != size:
            derived.append((name, expected, size))
        elif expected not in bindings:
            bindings[expected], names[expected] = size, name
    for name, expected, size in derived:
        unknown = [symbol for symbol in expected.free_symbols if symbol not in bindings]
        if len(unknown) == 1:
            solution = _solved(expected.xreplace(bindings), unknown[0], size)
            if solution is not None:
                bindings[unknown[0]] = solution
                names[unknown[0]] = name
                continue
        wanted = evaluated(expected, bindings)
        if wanted != size:
            known = ", ".join(
                f"{names[symbol]} is {bindings[symbol]}"
                for symbol in sorted(expected.free_symbols, key=str)
                if symbol in bindings
            )
            raise InputError(
                f"{name} is {size}, but must be {expected}"
                + (f" = {wanted}, since {known}" if known else ""),
                hint="pass inputs whose sizes go together as those of the example",
                stage="program",
            )
    return bindings, names


def _dimensions(
    shapes: Iterable[tuple[str, Sequence[Size], Sequence[int]]],
) -> Iterator[tuple[Dimension, sympy.Basic, int]]:
    for path, expected, shape in shapes:
        for index, (size, given) in enumerate(zip(expected, shape, strict=True)):
            if isinstance(size, sympy.Basic):
                yield Dimension(index, path), size, given


def _solved(expression: sympy.Basic, symbol: sympy.Symbol, size: int) -> int | None:
    """Return the integer for which a linear expression of one symbol has a value."""
    start = expression.xreplace({symbol: sympy.Integer(0)})
    step = expression.xreplace({symbol: sympy.Integer(1)}) - start
    if step == 0 or (size - start) % step != 0:
        return None
    value = (size - start) // step
    return int(value) if expression.xreplace({symbol: value}) == size else None
