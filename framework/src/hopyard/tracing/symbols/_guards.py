"""Whether inputs fit what a symbolic graph assumes of its inputs.

A symbolic capture runs the program once, on symbols with example values. Each time the program
decides by a size, the decision that the example led to becomes an assumption, a *guard*. The graph
is right for the inputs that meet all of them, and silently wrong for others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
from torch import Tensor
from torch.fx import GraphModule, Node

from ..._torch.pytree import tree_leaves
from ..._torch.symbolic import ShapeEnv
from ...errors import InputError, UsageError
from ._tracker import is_symbolic

_STAGE = "check_guards"
_ADVICE = "capture the program again with these inputs"


def check_guards(graph_module: GraphModule, *inputs: Any) -> None:
    """Check that a symbolic graph is right for inputs of these sizes.

    ::

        graph_module = hopyard.make_fx(f, tracing_mode="symbolic")(*examples)
        check_guards(graph_module, *inputs)
        graph_module(*inputs)

    Args:
        graph_module: What `make_fx` made of a program in symbolic mode.
        *inputs: What the graph is to be called with. Only their sizes, strides and integers are
            looked at, not what tensors hold; the graph itself checks numbers that it reads.

    Raises:
        InputError: The graph assumes something else. The message tells what.
        UsageError: The graph was captured in another mode, or takes another number of inputs.
    """
    shape_env = getattr(graph_module, "shape_env", None)
    if shape_env is None:
        raise UsageError(
            "the graph has no symbols that could stand for other sizes",
            hint="capture with make_fx(..., tracing_mode='symbolic')",
            stage=_STAGE,
        )
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    values = tree_leaves(inputs)
    if len(values) != len(placeholders):
        raise UsageError(
            f"the graph takes {len(placeholders)} inputs, not {len(values)}", stage=_STAGE
        )
    pairs = [
        pair
        for node, value in zip(placeholders, values, strict=True)
        for pair in _numbers(node, value)
    ]
    _Check(shape_env, pairs).run()


class _Number:
    """A size, stride or integer of an input: what it is, and what it was when captured."""

    def __init__(self, name: str, value: Any, expected: Any) -> None:
        self.name = name
        self.value = value
        node = expected.node if is_symbolic(expected) else None
        self.symbol = node._expr if node is not None and node._expr.is_Symbol else None
        self.expected = sympy.sympify(expected) if node is None else node.expr


class _Check:
    def __init__(self, shape_env: ShapeEnv, numbers: Sequence[_Number]) -> None:
        self._shape_env = shape_env
        self._numbers = numbers
        self._values: dict[sympy.Symbol, sympy.Integer] = {}
        self._names: dict[sympy.Symbol, str] = {}
        for number in numbers:
            if number.symbol is not None and number.symbol not in self._values:
                self._values[number.symbol] = sympy.Integer(number.value)
                self._names[number.symbol] = number.name

    def run(self) -> None:
        for symbol, replacement in self._shape_env.replacements.items():
            if symbol in self._values and self._is_false(sympy.Eq(symbol, replacement)):
                self._refuse(f"{self._told(symbol)} == {self._told(replacement)}")
        for number in self._numbers:
            if self._is_false(sympy.Eq(number.expected, number.value)):
                self._refuse(f"{number.name} == {self._told(number.expected)}")
        for guard in self._shape_env.guards:
            if self._is_false(guard.expr):
                self._refuse(self._told(guard.expr))
        for symbol, value in self._values.items():
            allowed = self._shape_env.var_to_range[symbol]
            if not allowed.lower <= value <= allowed.upper:
                self._refuse(f"{self._names[symbol]} to be from {allowed.lower} to {allowed.upper}")

    def _is_false(self, expression: Any) -> bool:
        return bool(expression.xreplace(self._values) == sympy.false)

    def _told(self, expression: Any) -> str:
        names = {symbol: sympy.Symbol(name) for symbol, name in self._names.items()}
        return str(expression.xreplace(names))

    def _refuse(self, assumption: str) -> None:
        given = ", ".join(
            f"{name} = {self._values[symbol]}" for symbol, name in self._names.items()
        )
        raise InputError(
            f"the graph assumes {assumption}; it was given {given or 'other sizes'}",
            hint=_ADVICE,
            stage=_STAGE,
        )


def _numbers(node: Node, value: Any) -> Iterator[_Number]:
    expected = node.meta.get("val")
    if is_symbolic(expected) or (isinstance(expected, int) and not isinstance(value, Tensor)):
        yield _Number(node.name, value, expected)
    if not isinstance(expected, Tensor):
        return
    if not isinstance(value, Tensor) or value.dim() != expected.dim():
        found = f"a tensor of {value.dim()} dimensions" if isinstance(value, Tensor) else value
        raise InputError(
            f"the graph assumes that {node.name} is a tensor of {expected.dim()} dimensions, "
            f"and it was given {found}",
            hint=_ADVICE,
            stage=_STAGE,
        )
    shape: tuple[Any, ...] = value.shape
    for index, size in enumerate(shape):
        yield _Number(f"{node.name}.shape[{index}]", size, expected.shape[index])
    if value.is_sparse:
        return
    yield _Number(
        f"{node.name}.storage_offset()", value.storage_offset(), expected.storage_offset()
    )
    strides: tuple[Any, ...] = value.stride()
    for index, stride in enumerate(strides):
        # The stride of a dimension of one element is never used.
        if value.numel() and value.shape[index] > 1:
            name = f"{node.name}.stride({index})"
            yield _Number(name, stride, expected.stride()[index])
