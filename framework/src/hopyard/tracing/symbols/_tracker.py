"""Which node stands for which symbolic number.

A symbol's first node is never replaced: all nodes that compute a symbol are equivalent, and the
first depends on the least. Nodes for sizes and strides are made when something uses them.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import sympy  # type: ignore[import-untyped]
import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import Graph, Node

from ..._torch.symbolic import SymNode, expression_handlers, wrap_number
from ...errors import UnsupportedError
from ..provenance._locations import current_location
from ._arithmetic import Arithmetic, RememberingNode
from ._deferred import Computed, Deferred, Query, Unread

if TYPE_CHECKING:
    from ..provenance._origin import Origin
    from ..recording._nodes import NodeWriter, Place

Symbolic = SymInt | SymFloat | SymBool
SYMBOLIC: tuple[type, ...] = (SymInt, SymFloat, SymBool)

aten = torch.ops.aten

SIZE: Final = aten.sym_size.int
STRIDE: Final = aten.sym_stride.int
ELEMENTS: Final = aten.sym_numel.default
OFFSET: Final = aten.sym_storage_offset.default


def is_symbolic(value: object) -> TypeGuard[Symbolic]:
    """Say whether `value` is a symbolic number."""
    return isinstance(value, SYMBOLIC)


class SymbolTracker:
    """The symbolic numbers of one graph.

    Args:
        graph: It holds the nodes.
        nodes: Appends to it.
        origin: Writes on a node where it comes from.
        arithmetic: What has been computed with them; None if that is not remembered.

    Attributes:
        used: Whether the trace has met a symbolic number at all.
        ask: Returns the number that a symbol stands for around the graph, or None; a symbol that
            nothing in the graph gives becomes an input then. None if there is nobody to ask.
        captured: The numbers that have become inputs so.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: NodeWriter,
        origin: Origin,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        self._graph = graph
        self._writer = nodes
        self._names: dict[Callable[..., Any], str] = {}
        self._origin = origin
        self._nodes: dict[SymNode, Deferred | Unread] = {}
        self._symbols: dict[sympy.Expr, SymNode] = {}
        self._placed: list[Deferred] = []
        self._is_watched = False
        self.used = False
        self.arithmetic = arithmetic
        self.ask: Callable[[sympy.Symbol], Symbolic | None] | None = None
        self.captured: list[Symbolic] = []

    def track(self, value: Symbolic, deferred: Deferred) -> None:
        """Let `deferred` stand for `value`, unless something does already."""
        self._track(value.node, deferred)

    def track_sizes(self, tensor: Tensor, node: Node) -> None:
        """Let the sizes, strides, number of elements and offset of `tensor` be read off `node`."""
        for index, size in enumerate(tensor.shape):
            self._track_query(size, SIZE, node, index)
        if not tensor.is_sparse:
            for index, stride in enumerate(tensor.stride()):
                self._track_query(stride, STRIDE, node, index)
        self._track_query(tensor.numel(), ELEMENTS, node)
        if not tensor.is_sparse:
            self._track_query(tensor.storage_offset(), OFFSET, node)

    def track_unread(self, numbers: Unread) -> None:
        """Let the numbers of a tensor be read off its node, unless something stands for them."""
        self.used = True
        known = self._nodes
        values = numbers.values
        for position, _, _, symbol in numbers.readings:
            number = values[position].node
            if number not in known:
                known[number] = numbers
                if symbol is not None:
                    self._symbols[symbol] = number

    def record(
        self, function: Callable[..., Any], args: Sequence[Any], result: Any, *, lazily: bool
    ) -> None:
        """Record that `function(*args)` computes `result`, now or when it is used.

        A result that is a plain number needs no record: it is known whatever the symbols are.
        """
        if not is_symbolic(result):
            return
        deferred = Computed(self, function, tuple(args), result.node)
        if not lazily:
            deferred.reserve()
        self._track(result.node, deferred)

    def record_operation(
        self,
        function: Callable[[Any, Any], Any],
        left: SymNode,
        right: SymNode,
        result: SymNode,
        *,
        lazily: bool,
    ) -> None:
        """Do as :meth:`record` does, for two numbers.

        A composite operator computes a dozen numbers on its way: `make bench-trace` shows what each
        costs.
        """
        if result.constant is not None:
            return
        if lazily:
            args = (wrap_number(left), wrap_number(right))
            self.record(function, args, wrap_number(result), lazily=True)
            return
        deferred = Computed(self, function, (self._bound(left), self._bound(right)), result)
        deferred.place()
        nodes = self._nodes
        if not isinstance(result, RememberingNode) or result in nodes:
            self._track(result, deferred)
            return
        self.used = True
        nodes[result] = deferred
        if result.term.is_symbol:
            self._symbols[result.expr] = result

    def lower(self, value: Symbolic) -> Node | int | float | bool:
        """Return what stands for `value` in a node's arguments: a number if it is one.

        Raises:
            UnsupportedError: It was computed where the tracer could not see it, from symbols that
                no input has.
        """
        if value.node.constant is not None:
            constant: int | float | bool = value.node.constant
            return constant
        if value.node.expr.is_number:
            number: int | float | bool = _NUMBERS[type(value)](value.node.expr)
            return number
        return self._find(value).force()

    def returned(self, value: Symbolic) -> Node | int | float | bool:
        """Return what stands for `value` in the output of the graph.

        That is its node also if it has turned out to be a number since: by then, the program had
        read it off an input or computed it.

        Raises:
            UnsupportedError: As in :meth:`lower`.
        """
        found = self.find(value)
        return self.lower(value) if found is None else found.force()

    def knows(self, value: object) -> bool:
        """Say whether `value` itself is tracked."""
        return is_symbolic(value) and value.node in self._nodes

    def find(self, value: Symbolic) -> Deferred | None:
        """Return what stands for `value`, made from tracked symbols if need be; None if one is
        missing.
        """
        found = self._tracked(value.node)
        if found is not None:
            return found
        symbol = self._symbols.get(value.node.expr)
        if symbol is not None:
            return self._tracked(symbol)
        self._rebuild(value.node.expr, value)
        return self._tracked(self._symbols.get(value.node.expr, value.node))

    def number(self, symbol: sympy.Symbol) -> Symbolic | None:
        """Return the number that a symbol stands for, taken from around the graph if need be."""
        number: Symbolic | None = self._rebuild(symbol)
        return number

    def _tracked(self, number: SymNode) -> Deferred | None:
        found = self._nodes.get(number)
        if isinstance(found, Unread):
            found = self._nodes[number] = found.query(self, number)
        return found

    def _find(self, value: Symbolic) -> Deferred:
        found = self.find(value)
        if found is None:
            missing = sorted(
                str(each) for each in value.node.expr.free_symbols if each not in self._symbols
            )
            raise UnsupportedError(
                f"the number {value} cannot be computed from what was captured: "
                f"no input or operator gives {', '.join(missing) or value.node.expr}",
                hint="pass it as an input",
                stage="capture",
                location=current_location(),
            )
        return found

    def _rebuild(self, expression: sympy.Expr, result: Symbolic | None = None) -> Any:
        """Compute an expression from tracked symbols; None if one is missing.

        With a `result`, that is what the outermost operation is recorded to give.
        """
        known = self._symbols.get(expression)
        if known is not None:
            return wrap_number(known)
        if expression.is_Integer:
            return int(expression)
        if expression.is_Float:
            return float(expression)
        if expression.is_Symbol:
            return self._capture(expression)
        args = [self._rebuild(argument) for argument in expression.args]
        function = _functions().get(expression.func)
        if function is None or any(argument is None for argument in args):
            return None
        if function is operator.mul and len(args) > 2:
            args = [functools.reduce(operator.mul, args[:-1]), args[-1]]
        if result is None:
            return function(*args)
        self.record(function, args, result, lazily=False)
        return result

    def _capture(self, symbol: sympy.Symbol) -> Symbolic | None:
        number = None if self.ask is None else self.ask(symbol)
        if number is None:
            return None
        node = append_placeholder(self._graph, f"captured_number{len(self.captured)}")
        node.meta["val"] = number
        self.captured.append(number)
        self.track(number, Deferred.made(self._origin.mark(node)))
        return number

    def operands(self, args: Sequence[Any]) -> Iterator[Deferred]:
        """Yield what stands for the numbers among arguments, in order."""
        for argument in args:
            if isinstance(argument, Deferred):
                yield argument
            elif is_symbolic(argument):
                yield self._find(argument)
            elif isinstance(argument, (list, tuple)):
                yield from self.operands(argument)

    def bind(self, argument: Any) -> Any:
        """Return an argument with what stands for its numbers now, in their places."""
        if is_symbolic(argument):
            return self._bound(argument.node)
        if isinstance(argument, (list, tuple)):
            return tuple([self.bind(item) for item in argument])
        return argument

    def lower_argument(self, argument: Any) -> Any:
        """Return an argument as a node holds it."""
        if isinstance(argument, Deferred):
            return argument.force()
        if is_symbolic(argument):
            return self._find(argument).force()
        if isinstance(argument, (list, tuple)):
            return tuple([self.lower_argument(item) for item in argument])
        return argument

    def place(self, function: Callable[..., Any], deferred: Deferred) -> Place | None:
        """Return a place for a call that `deferred` may write; None if it must be written now."""
        if self._is_watched or not self._origin.is_silent:
            # What is written on a node tells what goes on now.
            return None
        self._placed.append(deferred)
        return self._writer.take_place(self._name(function))

    def write_all(self) -> None:
        """Write what has a place, and from now on all at once: somebody looks at the graph."""
        self._is_watched = True
        for deferred in self._placed:
            deferred.force()
        self._placed.clear()

    def write(
        self, function: Callable[..., Any], args: tuple[Any, ...], value: Any, place: Place | None
    ) -> Node:
        """Write a call that computes `value`, at the end or in its place."""
        if place is None:
            node = self._origin.mark(self._writer.call(function, args, None, self._name(function)))
        else:
            node = self._writer.fill_place(place, function, args)
        node.meta["val"] = value
        return node

    def _track(self, number: SymNode, deferred: Deferred) -> None:
        self.used = True
        if number in self._nodes:
            return
        if self.arithmetic is not None:
            self.arithmetic.adopt(number)
        self._nodes[number] = deferred
        expression = number.expr
        if isinstance(expression, sympy.Symbol):
            self._symbols[expression] = number

    def _bound(self, number: SymNode) -> Any:
        """Return what stands for a number now, in a place that nobody takes from it; a constant
        stands for itself.
        """
        if number.constant is not None:
            return number.constant
        found = self._nodes.get(number)
        if found is not None and found.is_placed:
            return found
        if found is None or isinstance(found, Unread):
            value: Any = wrap_number(number)
            found = self._tracked(number) or self._find(value)
        if not found.is_placed:
            found.reserve()
        return found

    def _track_query(
        self, value: Any, query: Callable[..., Any], node: Node, index: int | None = None
    ) -> None:
        if isinstance(value, SymInt):
            self.track(value, Query(self, query, node, index, value))

    def _name(self, function: Callable[..., Any]) -> str:
        name = self._names.get(function)
        if name is None:
            name = re.sub(r"\W+", "_", self._graph._target_to_str(function), flags=re.ASCII)
            self._names[function] = name
        return name


def append_placeholder(graph: Graph, name: str) -> Node:
    """Add an input to a graph after those that it has."""
    placeholders = graph.find_nodes(op="placeholder")
    where = graph.inserting_after(placeholders[-1]) if placeholders else graph.inserting_before()
    with where:
        return graph.placeholder(name)


_NUMBERS: Mapping[type, Callable[[Any], Any]] = {SymInt: int, SymFloat: float, SymBool: bool}


def _largest(*values: Any) -> Any:
    return functools.reduce(torch.sym_max, values)


def _smallest(*values: Any) -> Any:
    return functools.reduce(torch.sym_min, values)


@functools.cache
def _functions() -> dict[Any, Callable[..., Any]]:
    """Return the function that computes each kind of expression."""
    functions: dict[Any, Callable[..., Any]] = {}
    for kind, name in expression_handlers().items():
        function = getattr(operator, name, None)
        if function is not None:
            functions[kind] = function
        elif name == "maximum":
            functions[kind] = _largest
        elif name == "minimum":
            functions[kind] = _smallest
        elif name == "pow_by_natural":
            functions[kind] = operator.pow
    functions[sympy.Add] = torch.sym_sum
    return functions
