"""Only arithmetic on symbols is given to torch to evaluate."""

from __future__ import annotations

import pytest
import sympy

from hopyard.program._expressions import is_arithmetic

S = "Symbol('s0', positive=True, integer=True)"
U = "Symbol('u12', integer=True)"

ALLOWED = [
    S,
    U,
    "Integer(3)",
    "Integer(-1)",
    f"Add(Mul(Integer(2), {S}), Integer(-1))",
    f"Max(Integer(1), {S}, {U})",
    f"FloorDiv(Add({S}, Integer(7)), Integer(8))",
    f"Mod({S}, Integer(4))",
    f"Pow({S}, Integer(2))",
    f"Pow({S}, Integer(-1))",
    f"Equality({U}, Integer(1))",
    f"And(StrictLessThan({S}, Integer(8)), LessThan({U}, oo))",
    f"Mul(Float('0.5', precision=53), {S})",
    "Rational(1, 3)",
    "true",
]

REFUSED = [
    "",
    "s0",
    "__import__('os').system('true')",
    "Symbol('s0').__class__",
    "Symbol('s0; import os')",
    "Symbol('__import__')",
    "Symbol('s0', cls=Function)",
    "Symbol('s0', integer=print())",
    "Symbol(name='s0')",
    "Symbol(*['s0'])",
    "Function('f')(Integer(1))",
    "Lambda(Symbol('x0'), Integer(1))",
    "sympify('1')",
    "S('1')",
    "Integer('1')",
    "Integer(1) + Integer(2)",
    "[Integer(1)]",
    "Integer(1) if true else print()",
    "(lambda: Integer(1))()",
    "Integer(9" + "9" * 40 + ")",
    "Pow(Integer(9), Integer(8))",
    f"Pow({S}, Integer(99999999))",
    f"Pow({S}, {S})",
    f"Pow(Pow({S}, Integer(8)), Integer(8))",
    f"Add({S}, evaluate=print())",
    "Float(precision=53)",
    "Float('nan; 1', precision=53)",
    "factorial(Integer(99))",
    "Add(" * 60 + "Integer(1)" + ")" * 60,
    "Add(" + ", ".join(["Integer(1)"] * 1000) + ")",
    "\x00",
    "(" * 3000,
]


@pytest.mark.parametrize("text", ALLOWED)
def test_arithmetic_on_symbols_is_let_through(text: str) -> None:
    assert is_arithmetic(text)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:40] or "empty")
def test_anything_else_is_refused(text: str) -> None:
    assert not is_arithmetic(text)


def test_what_sympy_writes_of_sizes_is_let_through() -> None:
    first, second = (sympy.Symbol(name, positive=True, integer=True) for name in ("s0", "s77"))
    for expression in (
        first * second + 3,
        sympy.Max(first, 2 * second - 1),
        (first + 1) ** 2,
        sympy.Rational(1, 2) * first,
        sympy.Ne(sympy.Mod(first, 8), 0),
    ):
        assert is_arithmetic(sympy.srepr(expression))
