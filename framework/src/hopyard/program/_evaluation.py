"""The value of a symbolic expression for given sizes, as fast as Python computes it.

Every call of a program with dynamic sizes evaluates some, and sympy takes as long for one as the
program for several operators.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import sympy  # type: ignore[import-untyped]

from .._torch.exporting import EXPRESSION_FUNCTIONS

_Value = Callable[[Mapping[sympy.Symbol, int]], Any]

_OF_MANY: dict[Any, Callable[[list[Any]], Any]] = {
    sympy.Add: sum,
    sympy.Mul: math.prod,
    sympy.And: all,
    sympy.Or: any,
    sympy.Max: max,
    sympy.Min: min,
}
_OF_TWO: dict[Any, Callable[[Any, Any], Any]] = {
    sympy.Eq: operator.eq,
    sympy.Ne: operator.ne,
    sympy.Lt: operator.lt,
    sympy.Le: operator.le,
    sympy.Gt: operator.gt,
    sympy.Ge: operator.ge,
    EXPRESSION_FUNCTIONS["FloorDiv"]: operator.floordiv,
    EXPRESSION_FUNCTIONS["CleanDiv"]: operator.floordiv,
    EXPRESSION_FUNCTIONS["Mod"]: operator.mod,
    EXPRESSION_FUNCTIONS["PythonMod"]: operator.mod,
}


def evaluated(expression: sympy.Basic, sizes: Mapping[sympy.Symbol, int]) -> Any:
    """Return the value of an expression: a plain one, or what sympy makes of it.

    Raises:
        ArithmeticError: It has none for these sizes, such as the remainder of a division by zero.
    """
    if expression.is_Symbol and expression in sizes:
        return sizes[expression]
    compute = _compiled(expression)
    if compute is None or not expression.free_symbols <= sizes.keys():
        return expression.xreplace(dict(sizes))
    return compute(sizes)


@functools.lru_cache(maxsize=4096)
def _compiled(expression: sympy.Basic) -> _Value | None:
    """Return a function that computes an expression of integers; None if sympy has to."""
    if expression.is_Integer:
        number = int(expression)
        return lambda sizes: number
    if expression.is_Symbol:
        return operator.itemgetter(expression)
    parts = [_compiled(each) for each in expression.args]
    known = [each for each in parts if each is not None]
    if not parts or len(known) < len(parts):
        return None
    of_many, of_two = _OF_MANY.get(expression.func), _OF_TWO.get(expression.func)
    if of_many is not None:
        return lambda sizes: of_many([part(sizes) for part in known])
    if of_two is not None:
        first, second = known
        return lambda sizes: of_two(first(sizes), second(sizes))
    return None
