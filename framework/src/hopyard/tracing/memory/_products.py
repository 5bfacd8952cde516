"""Products of sizes that are known before torch multiplies.

A new tensor with symbolic sizes computes its strides and its number of elements, a multiplication
at a time, and each calls Python code that multiplies expressions. A recipe knows the results. torch
asks the numbers themselves to multiply, so they are made to answer for a moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from torch import SymInt

from ..._torch.symbolic import SymNode

_ANSWERED: Final = ("mul", "sym_max", "wrap_int")


class UnforeseenProductError(Exception):
    """torch multiplies more or fewer numbers than a recipe says."""


@contextmanager
def known_products(
    shape: Sequence[int | SymInt], stride: Sequence[int | SymInt], elements: int | SymInt
) -> Iterator[None]:
    """Let torch find the numbers of a tensor that it makes, in the order in which it computes them.

    Only the thread that makes the tensor may use its numbers meanwhile; it runs no code of others.

    Args:
        shape: The sizes.
        stride: The strides, if torch computes them from the sizes; else nothing.
        elements: The number of elements.

    Raises:
        UnforeseenProductError: torch did not multiply as foreseen.
    """
    sizes = [size.node for size in shape if type(size) is SymInt]
    if not sizes:
        yield
        return
    strides = [number.node for number in reversed(stride) if type(number) is SymInt]
    answers = [*strides, *_steps(shape, sizes[0]), getattr(elements, "node", None)]
    answers.reverse()
    anyone = sizes[0]

    def multiply(other: SymNode) -> Any:
        answer = answers.pop() if answers else None
        if answer is None:
            raise UnforeseenProductError
        return answer

    def stay(other: Any) -> Any:
        # Whoever comes out of a comparison with one, or stands for a number, only multiplies.
        return anyone

    replaced = {"mul": multiply, "sym_max": stay, "wrap_int": stay}
    nodes = sizes + strides
    try:
        for node in nodes:
            node.__dict__.update(replaced)
        yield
    finally:
        for node in nodes:
            for name in _ANSWERED:
                node.__dict__.pop(name, None)
    if answers:
        raise UnforeseenProductError


def _steps(shape: Sequence[int | SymInt], size: SymNode) -> list[SymNode]:
    """Return what stands for the products of all but the last size."""
    first = next(index for index, each in enumerate(shape) if type(each) is SymInt)
    return [size] * (len(shape) - first - 1)
