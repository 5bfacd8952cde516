"""Expressions of sizes have the values that sympy gives them."""

from __future__ import annotations

import random

import pytest
import sympy  # type: ignore[import-untyped]

from hopyard._torch.exporting import EXPRESSION_FUNCTIONS
from hopyard.program._evaluation import evaluated

FIRST, SECOND = sympy.symbols("s0 s1", integer=True, positive=True)
OF_TORCH = {
    name: EXPRESSION_FUNCTIONS[name]
    for name in ("FloorDiv", "CleanDiv", "Mod", "PythonMod", "CeilDiv")
}


def _random(choose: random.Random, depth: int) -> sympy.Basic:
    if depth == 0:
        return choose.choice([FIRST, SECOND, sympy.Integer(choose.randint(1, 9))])
    one, other = _random(choose, depth - 1), _random(choose, depth - 1)
    operators = [
        lambda: one + other,
        lambda: one * other,
        lambda: one - other,
        lambda: one**2,
        lambda: sympy.Max(one, other),
        lambda: sympy.Min(one, other),
        *(lambda of=of: of(one, abs(choose.randint(2, 5))) for of in OF_TORCH.values()),
    ]
    return choose.choice(operators)()


@pytest.mark.parametrize("seed", range(60))
def test_expressions_and_conditions(seed: int) -> None:
    choose = random.Random(seed)
    sizes = {FIRST: choose.randint(2, 50), SECOND: choose.randint(2, 50)}
    numbers = {symbol: sympy.Integer(size) for symbol, size in sizes.items()}
    try:
        one, other = _random(choose, 2), _random(choose, 2)
        expected = one.xreplace(numbers), other.xreplace(numbers)
    except (AssertionError, ArithmeticError, ValueError):
        return  # torch's remainders and divisions are of no negative numbers
    for expression, value in zip((one, other), expected, strict=True):
        assert evaluated(expression, sizes) == value
    for relation in (sympy.Eq, sympy.Ne, sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge):
        condition = sympy.And(relation(one, other), sympy.Ge(FIRST, 1))
        assert bool(evaluated(condition, sizes)) == bool(condition.xreplace(numbers))


def test_what_is_not_known_stays_an_expression() -> None:
    assert evaluated(FIRST + SECOND, {FIRST: 2}) == SECOND + 2
    assert evaluated(sympy.Eq(FIRST * sympy.Rational(1, 2), 3), {FIRST: 6}) == sympy.true
    with pytest.raises(ArithmeticError):
        evaluated(OF_TORCH["Mod"](FIRST, FIRST - SECOND), {FIRST: 2, SECOND: 2})
