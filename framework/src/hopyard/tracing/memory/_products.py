"""Products of sizes that are known before torch multiplies.

A new tensor with symbolic sizes computes its strides and its number of elements, a multiplication
at a time, and each calls Python code that multiplies expressions. A recipe knows the results. torch
asks the numbers themselves to multiply, so they are made to answer for a moment.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any, Final

from torch import SymInt

from ..._torch.symbolic import SymNode

ANSWERED: Final = frozenset(("mul", "sym_max", "wrap_int", "maybe_as_int"))
"""What numbers answer by themselves while a tensor is made of them."""

# One tensor at a time: captures on several threads can have symbols in common.
_making: Final = threading.RLock()


class UnforeseenProductError(Exception):
    """torch multiplies more or fewer numbers than a recipe says."""


class Products:
    """The order in which torch computes the numbers of a tensor of one form.

    Args:
        numbers: The sizes, strides, offset and number of elements of such a tensor. None of them is
            an expression without symbols.
        rank: How many sizes there are.
        is_contiguous: Whether torch computes the strides from the sizes.

    Attributes:
        rank: How many sizes there are.
        is_contiguous: Whether torch computes the strides from the sizes, and then knows that the
            tensor is contiguous. That implies no offset.
    """

    __slots__ = ("_answers", "_asked", "is_contiguous", "rank")

    def __init__(self, numbers: Sequence[int | SymInt], rank: int, *, is_contiguous: bool) -> None:
        self.rank = rank
        self.is_contiguous = is_contiguous
        symbolic = [index for index, number in enumerate(numbers) if type(number) is SymInt]
        sizes = [index for index in symbolic if index < rank]
        strides = [index for index in symbolic if rank <= index < 2 * rank and is_contiguous]
        self._asked = (*sizes, *strides)
        # What stands for the product of all sizes but the last is of no matter.
        steps = [sizes[0]] * (rank - sizes[0] - 1) if sizes else []
        self._answers = (2 * rank + 1, *steps, *strides)

    def announce(self, numbers: Sequence[Any]) -> list[Any]:
        """Let torch find the numbers of the tensor that is made next.

        The thread that makes it runs no code of others until the numbers are withdrawn. For other
        threads they multiply as ever.

        Returns:
            The answers that nobody has asked for yet. If one remains when the tensor is made, torch
            did not multiply as foreseen. If it asks for more than there are, the making raises
            :class:`UnforeseenProductError`.
        """
        asked = self._asked
        if not asked:
            return []
        answers = [getattr(numbers[index], "node", None) for index in self._answers]
        anyone: SymNode = numbers[asked[0]].node
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

        _making.acquire()
        for index in asked:
            node = numbers[index].node
            attributes = node.__dict__
            attributes["mul"] = functools.partial(multiply, node)
            attributes["sym_max"] = functools.partial(stay, "sym_max", node)
            attributes["wrap_int"] = functools.partial(stay, "wrap_int", node)
            attributes["maybe_as_int"] = _no_number
        return answers

    def withdraw(self, numbers: Sequence[Any]) -> None:
        """End what :meth:`announce` began; numbers multiply again."""
        if not self._asked:
            return
        for index in self._asked:
            attributes = numbers[index].node.__dict__
            if "mul" in attributes:
                del attributes["mul"], attributes["sym_max"], attributes["wrap_int"]
                del attributes["maybe_as_int"]
        _making.release()


def _no_number() -> None:
    """Return what an expression with symbols says when it is asked for its value."""
