"""Products of sizes that are known before torch multiplies.

A new tensor with symbolic sizes computes its strides and its number of elements, a multiplication
at a time, and each calls Python code that multiplies expressions. A recipe knows the results. torch
asks the numbers themselves to multiply, so they are made to answer for a moment.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from torch import SymInt

from ..._torch.symbolic import SymNode

_ANSWERED: Final = ("mul", "sym_max", "wrap_int")
# One tensor at a time: captures on several threads can have symbols in common.
_making: Final = threading.RLock()


class UnforeseenProductError(Exception):
    """torch multiplies more or fewer numbers than a recipe says."""


@contextmanager
def known_products(
    shape: Sequence[int | SymInt], stride: Sequence[int | SymInt], elements: int | SymInt
) -> Iterator[None]:
    """Let torch find the numbers of a tensor that it makes, in the order in which it computes them.

    The thread that makes the tensor runs no code of others meanwhile. For other threads the numbers
    multiply as ever.

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

    thread = threading.get_ident()

    def multiply(node: SymNode, other: SymNode) -> Any:
        if threading.get_ident() != thread:
            return type(node).mul(node, other)
        answer = answers.pop() if answers else None
        if answer is None:
            raise UnforeseenProductError
        return answer

    def stay(name: str, node: SymNode, other: Any) -> Any:
        if threading.get_ident() != thread:
            return getattr(type(node), name)(node, other)
        # Whoever comes out of a comparison with one, or stands for a number, only multiplies.
        return anyone

    nodes = sizes + strides
    with _making:
        try:
            for node in nodes:
                node.__dict__["mul"] = functools.partial(multiply, node)
                for name in _ANSWERED[1:]:
                    node.__dict__[name] = functools.partial(stay, name, node)
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
