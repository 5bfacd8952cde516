"""Nodes of symbolic numbers that are made when something uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import sympy  # type: ignore[import-untyped]
from torch.fx import Node

from ..._torch.symbolic import SymNode, wrap_number
from ..recording._nodes import Place


class Deferred:
    """A node that is made when it is first asked for.

    Attributes:
        is_placed: Whether the node exists, or has the name and the place that it will have.
    """

    __slots__ = ("_node", "is_placed")

    def __init__(self) -> None:
        self._node: Node | None = None
        self.is_placed = False

    @classmethod
    def made(cls, node: Node) -> Deferred:
        """Return one whose node exists."""
        deferred = Deferred()
        deferred._node = node
        deferred.is_placed = True
        return deferred

    def force(self) -> Node:
        """Return the node."""
        if self._node is None:
            for deferred in _operands_first(self, lambda each: each._node is not None):
                deferred._node = deferred._node or deferred._make()
                deferred.is_placed = True
        assert self._node is not None
        return self._node

    def reserve(self) -> None:
        """Let the node have the name and the place that it would get if it were made now."""
        if not self.is_placed:
            for deferred in _operands_first(self, lambda each: each.is_placed):
                if not deferred.is_placed:
                    deferred._take_place()

    def _operands(self) -> Iterator[Deferred]:
        """Find the operands, in the order in which their nodes are made."""
        return iter(())

    def _make(self) -> Node:
        """Make the node, when those of the operands have been made."""
        raise NotImplementedError

    def _take_place(self) -> None:
        """Do as :meth:`reserve` does, when the operands have their places."""
        self.force()


def _operands_first(last: Deferred, is_done: Callable[[Deferred], bool]) -> Iterator[Deferred]:
    """Yield what is not done, for the caller to do, each after its operands.

    Chains of operands can be longer than Python calls can nest.
    """
    pending = [(last, last._operands())]
    while pending:
        deferred, operands = pending[-1]
        missing = next((each for each in operands if not is_done(each)), None)
        if missing is None:
            pending.pop()
            yield deferred
        else:
            pending.append((missing, missing._operands()))


class Thunk(Deferred):
    """A node that a function makes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], Node]) -> None:
        super().__init__()
        self._function = function

    def _make(self) -> Node:
        return self._function()


class Writer(Protocol):
    """Writes the calls that compute symbolic numbers."""

    def operands(self, args: Sequence[Any]) -> Iterator[Deferred]:
        """Yield what stands for the numbers among arguments, in order."""
        ...

    def bind(self, argument: Any) -> Any:
        """Return an argument with what stands for its numbers now, in their places."""
        ...

    def lower_argument(self, argument: Any) -> Any:
        """Return an argument as a node holds it."""
        ...

    def place(self, function: Callable[..., Any], deferred: Deferred) -> Place | None:
        """Return a place for a call that `deferred` may write; None if it must be written now."""
        ...

    def write(
        self, function: Callable[..., Any], args: tuple[Any, ...], value: Any, place: Place | None
    ) -> Node:
        """Write a call that computes `value`, at the end or in its place."""
        ...


class Placed(Deferred):
    """A node that can take a name and a place before it is made.

    Both are kept in slots: the collector looks at each object that a question of sizes leaves.
    """

    __slots__ = ("_after", "_function", "_name", "_order", "_writer")

    _writer: Writer
    _function: Callable[..., Any]
    _name: str | None
    _after: Node
    _order: int

    def place(self) -> None:
        """Do as :meth:`reserve` does, if what stands for its operands is given and placed."""
        place = self._writer.place(self._function, self)
        self.is_placed = True
        if place is None:
            self.force()
        else:
            self._name, self._after, self._order = place

    def _take_place(self) -> None:
        self.place()

    def _write(self, args: tuple[Any, ...], value: Any) -> Node:
        """Write the call, in its place if it has one."""
        place = None if self._name is None else (self._name, self._after, self._order)
        return self._writer.write(self._function, args, value, place)


class Computed(Placed):
    """A call that computes a number from others.

    Most of what a program asks of sizes decides something at once and is used nowhere else. What
    is asked takes a name and a place, by which those of all later nodes go; the node itself would
    only be removed again.
    """

    __slots__ = ("_args", "_number")

    def __init__(
        self,
        writer: Writer,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        number: SymNode,
    ) -> None:
        self._node = None
        self.is_placed = False
        self._name = None
        self._writer = writer
        self._function = function
        self._args = args
        self._number = number

    def _operands(self) -> Iterator[Deferred]:
        return self._writer.operands(self._args)

    def _take_place(self) -> None:
        # Other nodes may stand for the same symbols later.
        self._args = tuple([self._writer.bind(argument) for argument in self._args])
        self.place()

    def _make(self) -> Node:
        args = tuple([self._writer.lower_argument(argument) for argument in self._args])
        return self._write(args, wrap_number(self._number))


class Reading(NamedTuple):
    """How a number of a tensor is read off the node that computes it.

    Attributes:
        position: Which of its numbers.
        query: The operator that reads it.
        dimension: The dimension; None for a number that belongs to none.
        symbol: The symbol that the number is, if it is one.
    """

    position: int
    query: Callable[..., Any]
    dimension: int | None
    symbol: sympy.Symbol | None


class Query(Placed):
    """A call that reads a number off a tensor."""

    __slots__ = ("_index", "_source", "_value")

    def __init__(
        self,
        writer: Writer,
        function: Callable[..., Any],
        source: Node,
        index: int | None,
        value: Any,
    ) -> None:
        self._node = None
        self.is_placed = False
        self._name = None
        self._writer = writer
        self._function = function
        self._source = source
        self._index = index
        self._value = value

    def _make(self) -> Node:
        args = (self._source,) if self._index is None else (self._source, self._index)
        return self._write(args, self._value)


class Unread:
    """The numbers of a tensor that nothing has used yet.

    Attributes:
        source: What computes the tensor.
        readings: How to read its symbolic numbers off it.
        values: All its numbers.
    """

    __slots__ = ("readings", "source", "values")

    is_placed: Final = False
    source: Node
    readings: Sequence[Reading]
    values: Sequence[Any]

    def query(self, writer: Writer, number: SymNode) -> Query:
        """Return what reads one of them."""
        for position, query, dimension, _ in self.readings:
            value = self.values[position]
            if value.node is number:
                return Query(writer, query, self.source, dimension, value)
        raise KeyError(number)
