"""Products of sizes that are known before torch multiplies.

A new tensor with symbolic sizes computes its strides and its number of elements, a multiplication
at a time, and each calls Python code that multiplies expressions. A recipe knows the results. torch
asks the numbers themselves to multiply, so they answer for a moment: those that a capture knows by
themselves, others by another class.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

from torch import SymInt

from ..._torch.symbolic import SymNode

making: Final = threading.RLock()
"""Held while numbers answer that do not always: captures on several threads can share some."""


class _Answers(threading.local):
    left: list[SymNode | None] | None = None
    """The answers that torch has not asked for yet; None on threads that make no tensor."""

    switched: Sequence[SymNode] = ()
    """The numbers that answer only while the tensor is made."""


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
        for index in self._asked:
            if type(numbers[index].node) not in _always_answering:
                _switch([numbers[asked].node for asked in self._asked])
                break
        _answers.left = answers
        return answers

    def withdraw(self) -> None:
        """End what :meth:`announce` began; numbers multiply again."""
        _answers.left = None
        if _answers.switched:
            for node in _answers.switched:
                node.__class__ = usual_kind(node)
            _answers.switched = ()
            making.release()


def usual_kind(node: SymNode) -> type[SymNode]:
    """Return the class that a number has when it does not answer for torch."""
    kind = type(node)
    return _usual_kinds.get(kind, kind)


_always_answering: Final[set[type[SymNode]]] = set()
_answering_kinds: Final[dict[type[SymNode], type[SymNode]]] = {}
_usual_kinds: Final[dict[type[SymNode], type[SymNode]]] = {}


def _switch(nodes: Sequence[SymNode]) -> None:
    """Let numbers answer that do not always."""
    making.acquire()
    _answers.switched = nodes
    for node in nodes:
        kind = type(node)
        node.__class__ = _answering_kinds.get(kind) or _answering(kind)


def _answering(kind: type[SymNode]) -> type[SymNode]:
    """Return the class of answering numbers for a class of numbers."""
    if kind in _always_answering:
        return kind
    answering = type("Answering", (kind,), {})
    _let_answer(answering)
    # A size may be asked for twice in one tensor.
    _answering_kinds[kind] = _answering_kinds[answering] = answering
    _usual_kinds[answering] = kind
    return answering


def answers_always(kind: type[SymNode]) -> None:
    """Let the numbers of a class answer whenever their thread makes a tensor."""
    _let_answer(kind)
    _always_answering.add(kind)


def _let_answer(kind: type[SymNode]) -> None:
    """Let the methods that torch calls while a tensor is made answer instead of computing."""
    multiply, largest, wrap, known = kind.mul, kind.sym_max, kind.wrap_int, kind.maybe_as_int

    def mul(self: SymNode, other: SymNode) -> Any:
        left = _answers.left
        if left is None:
            return multiply(self, other)
        answer = left.pop() if left else None
        if answer is None:
            raise UnforeseenProductError
        return answer

    # Whoever comes out of a comparison with one, or stands for a number, only multiplies.

    def sym_max(self: SymNode, other: SymNode) -> Any:
        return largest(self, other) if _answers.left is None else self

    def wrap_int(self: SymNode, num: int) -> Any:
        return wrap(self, num) if _answers.left is None else self

    def maybe_as_int(self: SymNode) -> int | None:
        # None is what an expression with symbols says when it is asked for its value.
        return known(self) if _answers.left is None else None

    for method in (mul, sym_max, wrap_int, maybe_as_int):
        setattr(kind, method.__name__, method)
