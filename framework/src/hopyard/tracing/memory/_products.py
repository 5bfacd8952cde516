"""Products of sizes that are known before torch multiplies.

A new tensor with symbolic sizes computes its strides and its number of elements, a multiplication
at a time, and each calls Python code that multiplies expressions. A recipe knows the results. torch
asks the numbers themselves to multiply, so they become numbers that answer for a moment.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

from torch import SymInt

from ..._torch.symbolic import SymNode

making: Final = threading.RLock()
"""Held while a tensor is made: captures on several threads can have numbers in common."""


class _Answers(threading.local):
    left: list[SymNode | None] | None = None
    """The answers that torch has not asked for yet; None on threads that make no tensor."""


_answers: Final = _Answers()


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

    def announce(self, numbers: Sequence[Any]) -> list[SymNode | None]:
        """Let torch find the numbers of the tensor that is made next.

        The thread that makes it runs no code of others until the numbers are withdrawn. For other
        threads they multiply as ever.

        Returns:
            The answers that nobody has asked for yet. If one remains when the tensor is made, torch
            did not multiply as foreseen. If it asks for more than there are, the making raises
            :class:`UnforeseenProductError`.
        """
        if not self._asked:
            return []
        answers = [getattr(numbers[index], "node", None) for index in self._answers]
        making.acquire()
        _answers.left = answers
        for index in self._asked:
            node = numbers[index].node
            kind = type(node)
            node.__class__ = _answering_kinds.get(kind) or _answering(kind)
        return answers

    def withdraw(self, numbers: Sequence[Any]) -> None:
        """End what :meth:`announce` began; numbers multiply again."""
        if not self._asked:
            return
        for index in self._asked:
            node = numbers[index].node
            node.__class__ = usual_kind(node)
        _answers.left = None
        making.release()


def usual_kind(node: SymNode) -> type[SymNode]:
    """Return the class that a number has when it does not answer for torch."""
    kind = type(node)
    return _usual_kinds.get(kind, kind)


_answering_kinds: Final[dict[type[SymNode], type[SymNode]]] = {}
_usual_kinds: Final[dict[type[SymNode], type[SymNode]]] = {}


def _answering(kind: type[SymNode]) -> type[SymNode]:
    """Return the class of answering numbers for a class of numbers."""

    class Answering(kind):  # type: ignore[misc, valid-type]
        def mul(self, other: SymNode) -> Any:
            left = _answers.left
            if left is None:
                return kind.mul(self, other)
            answer = left.pop() if left else None
            if answer is None:
                raise UnforeseenProductError
            return answer

        # Whoever comes out of a comparison with one, or stands for a number, only multiplies.

        def sym_max(self, other: SymNode) -> Any:
            return kind.sym_max(self, other) if _answers.left is None else self

        def wrap_int(self, num: int) -> Any:
            return kind.wrap_int(self, num) if _answers.left is None else self

        def maybe_as_int(self) -> int | None:
            # What an expression with symbols says when it is asked for its value.
            return None

    # A size may be asked for twice in one tensor.
    _answering_kinds[kind] = _answering_kinds[Answering] = Answering
    _usual_kinds[Answering] = kind
    return Answering
