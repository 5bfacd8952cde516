"""The symbolic numbers of a call: those that an operator was given, and those that it made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import SymInt

from ..._torch.symbolic import SymNode
from ._products import usual_kind


class NewNumber:
    """A number that an operator computes: a new one each time, of one expression.

    Attributes:
        key: Distinguishes the new numbers of one call.
    """

    __slots__ = ("_kind", "_state", "key")

    def __init__(self, key: int, example: SymInt) -> None:
        self.key = key
        # On another thread it may be answering for torch right now.
        self._kind = usual_kind(example.node)
        self._state = example.node.__dict__.copy()

    def make(self) -> SymInt:
        """Return another number of the same expression and hint."""
        # Its class would work all of this out again from the expression and the hint.
        node = self._kind.__new__(self._kind)
        node.__dict__ = self._state.copy()
        return SymInt(node)


class Plan(NamedTuple):
    """Where the numbers of an output come from.

    Attributes:
        plain: One number for each position; what stands for a symbolic one is of no matter.
        passed: Positions of numbers that were given, and which of those they are.
        new: Positions of numbers that the operator makes.
    """

    plain: Sequence[Any]
    passed: Sequence[tuple[int, int]]
    new: Sequence[tuple[int, NewNumber]]


class Numbers:
    """The symbolic numbers of one call.

    Attributes:
        given: Those of the operands and among the arguments, in order; plain numbers of operands
            stand among them.
    """

    __slots__ = ("_made", "_planned", "_positions", "given")

    def __init__(self, given: Sequence[Any]) -> None:
        self.given = given
        # Made when needed: most calls have no symbolic numbers at all.
        self._made: dict[int, SymInt] | None = None
        self._planned: dict[SymNode, NewNumber] | None = None
        self._positions: dict[SymNode, int] | None = None

    def plan(self, values: Sequence[int | SymInt]) -> Plan:
        """Return where the numbers of an output come from."""
        if self._positions is None:
            self._positions = {}
            for position, given in enumerate(self.given):
                if type(given) is not int:
                    self._positions.setdefault(given.node, position)
        if self._planned is None:
            self._planned = {}
        passed: list[tuple[int, int]] = []
        new: list[tuple[int, NewNumber]] = []
        for index, value in enumerate(values):
            if not isinstance(value, SymInt):
                continue
            which = self._positions.get(value.node)
            if which is not None:
                passed.append((index, which))
                continue
            number = self._planned.get(value.node)
            if number is None:
                number = self._planned[value.node] = NewNumber(len(self._planned), value)
            new.append((index, number))
        plain = [None if isinstance(value, SymInt) else value for value in values]
        return Plan(plain, passed, new)

    def filled(self, plan: Plan) -> list[Any]:
        """Return the numbers of an output; outputs share new ones as the first ones did."""
        values = list(plan.plain)
        given = self.given
        for index, which in plan.passed:
            values[index] = given[which]
        if not plan.new:
            return values
        made = self._made
        if made is None:
            made = self._made = {}
        for index, number in plan.new:
            value = made.get(number.key)
            if value is None:
                value = made[number.key] = number.make()
            values[index] = value
        return values
