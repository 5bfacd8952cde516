"""Which node stands for which symbolic number.

A symbol's first node is never replaced: all nodes that compute a symbol are equivalent, and the
first depends on the least. Nodes for sizes and strides are made when something uses them.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import sympy  # type: ignore[import-untyped]
import torch
from torch import SymBool, SymFloat, SymInt, Tensor
from torch.fx import Graph, Node

from ..._torch.symbolic import SymNode, expression_handlers
from ...errors import UnsupportedError
from ..provenance._locations import current_location
from ._arithmetic import Arithmetic

if TYPE_CHECKING:
    from ..memory._symbolic import SymbolicMetadata
    from ..recording._nodes import NodeWriter

Symbolic = SymInt | SymFloat | SymBool
SYMBOLIC: tuple[type, ...] = (SymInt, SymFloat, SymBool)

aten = torch.ops.aten


def is_symbolic(value: object) -> TypeGuard[Symbolic]:
    """Say whether `value` is a symbolic number."""
    return isinstance(value, SYMBOLIC)


def _nothing() -> Iterator[Deferred]:
    return iter(())


class Deferred:
    """A node that is made when it is first asked for.

    Args:
        make: Makes the node, when those of the operands have been made.
        operands: Finds the operands, in the order in which their nodes are made.
    """

    __slots__ = ("_make", "_node", "_operands")

    def __init__(
        self,
        make: Callable[[], Node],
        operands: Callable[[], Iterator[Deferred]] = _nothing,
    ) -> None:
        self._make: Callable[[], Node] | None = make
        self._operands = operands
        self._node: Node | None = None

    @classmethod
    def made(cls, node: Node) -> Deferred:
        """Return one whose node exists."""
        deferred = cls(lambda: node)
        deferred._node, deferred._make = node, None
        return deferred

    def force(self) -> Node:
        """Return the node."""
        if self._node is None:
            # Chains of operands can be longer than Python calls can nest.
            pending = [(self, self._operands())]
            while pending:
                deferred, operands = pending[-1]
                missing = next((each for each in operands if each._node is None), None)
                if missing is not None:
                    pending.append((missing, missing._operands()))
                    continue
                pending.pop()
                deferred._finish()
        assert self._node is not None
        return self._node

    def _finish(self) -> None:
        if self._make is not None:
            self._node, self._make, self._operands = self._make(), None, _nothing


class SymbolTracker:
    """The symbolic numbers of one graph.

    Args:
        graph: It holds the nodes.
        nodes: Appends to it.
        mark: Writes on a node where it comes from.
        arithmetic: What has been computed with them; None if that is not remembered.

    Attributes:
        used: Whether the trace has met a symbolic number at all.
    """

    def __init__(
        self,
        graph: Graph,
        nodes: NodeWriter,
        mark: Callable[[Node], Node],
        arithmetic: Arithmetic | None = None,
    ) -> None:
        self._graph = graph
        self._writer = nodes
        self._names: dict[Callable[..., Any], str] = {}
        self._mark = mark
        self._nodes: dict[SymNode, Deferred] = {}
        self._symbols: dict[sympy.Expr, tuple[Deferred, Symbolic]] = {}
        self.used = False
        self.arithmetic = arithmetic

    def track(self, value: Symbolic, deferred: Deferred) -> None:
        """Let `deferred` stand for `value`, unless something does already."""
        self.used = True
        if value.node in self._nodes:
            return
        if self.arithmetic is not None:
            self.arithmetic.adopt(value.node)
        self._nodes[value.node] = deferred
        if isinstance(value.node.expr, sympy.Symbol):
            self._symbols[value.node.expr] = (deferred, value)

    def track_sizes(self, tensor: Tensor, node: Node) -> None:
        """Let the sizes, strides, number of elements and offset of `tensor` be read off `node`."""
        for index, size in enumerate(tensor.shape):
            self._track_query(size, aten.sym_size.int, (node, index))
        if not tensor.is_sparse:
            for index, stride in enumerate(tensor.stride()):
                self._track_query(stride, aten.sym_stride.int, (node, index))
        self._track_query(tensor.numel(), aten.sym_numel.default, (node,))
        if not tensor.is_sparse:
            self._track_query(tensor.storage_offset(), aten.sym_storage_offset.default, (node,))

    def track_numbers(self, metadata: SymbolicMetadata, node: Node) -> None:
        """Do as :meth:`track_sizes` does, for a tensor of known metadata."""
        self.used = True
        known = self._nodes
        for query, values in (
            (aten.sym_size.int, metadata.shape),
            (aten.sym_stride.int, metadata.stride),
        ):
            for index, value in enumerate(values):
                if type(value) is SymInt and value.node not in known:
                    self._track_query(value, query, (node, index))
        if type(metadata.elements) is SymInt and metadata.elements.node not in known:
            self._track_query(metadata.elements, aten.sym_numel.default, (node,))
        if type(metadata.offset) is SymInt and metadata.offset.node not in known:
            self._track_query(metadata.offset, aten.sym_storage_offset.default, (node,))

    def record(
        self, function: Callable[..., Any], args: Sequence[Any], result: Any, *, lazily: bool
    ) -> None:
        """Record that `function(*args)` computes `result`, at once or when it is used.

        A result that is a plain number needs no record: it is known whatever the symbols are.
        """
        if not is_symbolic(result):
            return
        deferred = Deferred(
            lambda: self._compute(function, args, result), lambda: self._operands(args)
        )
        if not lazily:
            deferred.force()
        self.track(result, deferred)

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

    def _track_query(self, value: Any, query: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if isinstance(value, SymInt):
            self.track(value, Deferred(lambda: self._call(query, args, value)))

    def knows(self, value: object) -> bool:
        """Say whether `value` itself is tracked."""
        return is_symbolic(value) and value.node in self._nodes

    def find(self, value: Symbolic) -> Deferred | None:
        """Return what stands for `value`, made from tracked symbols if need be; None if one is
        missing.
        """
        found = self._nodes.get(value.node)
        if found is not None:
            return found
        symbol = self._symbols.get(value.node.expr)
        if symbol is not None:
            return symbol[0]
        self._rebuild(value.node.expr, value)
        return self._nodes.get(value.node)

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
            return known[1]
        if expression.is_Integer:
            return int(expression)
        if expression.is_Float:
            return float(expression)
        args = [self._rebuild(argument) for argument in expression.args]
        function = _functions().get(expression.func)
        if function is None or any(argument is None for argument in args):
            return None
        if result is None:
            return function(*args)
        self.record(function, args, result, lazily=False)
        return result

    def _operands(self, args: Any) -> Iterator[Deferred]:
        for argument in args:
            if is_symbolic(argument):
                yield self._find(argument)
            elif isinstance(argument, (list, tuple)):
                yield from self._operands(argument)

    def _compute(self, function: Callable[..., Any], args: Sequence[Any], result: Any) -> Node:
        return self._call(function, tuple(self._lowered(argument) for argument in args), result)

    def _lowered(self, argument: Any) -> Any:
        if is_symbolic(argument):
            return self._find(argument).force()
        if isinstance(argument, (list, tuple)):
            return tuple(self._lowered(item) for item in argument)
        return argument

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...], value: Any) -> Node:
        name = self._names.get(function)
        if name is None:
            name = re.sub(r"\W+", "_", self._graph._target_to_str(function), flags=re.ASCII)
            self._names[function] = name
        node = self._mark(self._writer.call(function, args, None, name))
        node.meta["val"] = value
        return node


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
    functions[sympy.Add] = torch.sym_sum
    return functions
