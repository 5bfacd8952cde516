"""Which symbolic expressions of a file may be given to torch.

torch hands the text of an expression to sympy, which evaluates it as Python. Only text that can be
nothing but arithmetic on symbols is let through, and only as much of it as computes at once.
"""

from __future__ import annotations

import ast
import functools
import re

import sympy  # type: ignore[import-untyped]

from .._torch.exporting import EXPRESSION_FUNCTIONS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SYMBOL = re.compile(r"[a-z]{1,4}[0-9]{1,9}", re.ASCII)
_ASSUMPTIONS = _words(
    "commutative integer positive negative nonnegative nonpositive nonzero real finite zero"
)
_ARITHMETIC = _words(
    "Add Mul Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv ModularIndexing Where CeilToInt "
    "FloorToInt And Or Not Equality Unequality StrictLessThan StrictGreaterThan LessThan "
    "GreaterThan Eq Ne Lt Gt Le Ge"
)
_CONSTANTS = _words("true false oo")
_LONGEST = 4000
_DEEPEST = 40
_LARGEST = 2**64
_LARGEST_EXPONENT = 8


@functools.lru_cache(maxsize=4096)
def is_arithmetic(text: str) -> bool:
    """Return whether an expression as torch writes it is arithmetic on symbols and numbers."""
    if len(text) > _LONGEST:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _is_allowed(tree.body, 0)


def read_arithmetic(text: str) -> sympy.Basic:
    """Return the expression that `text` stands for.

    Raises:
        ValueError: It is no arithmetic.
    """
    if not is_arithmetic(text):
        raise ValueError(f"{text[:80]!r} is no arithmetic")
    return sympy.sympify(text, locals=dict(EXPRESSION_FUNCTIONS))


def _is_allowed(node: ast.AST, depth: int) -> bool:
    if depth > _DEEPEST:
        return False
    match node:
        case ast.Name(id=name):
            return name in _CONSTANTS
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]):
            return bool(_SYMBOL.fullmatch(name)) and all(
                keyword.arg in _ASSUMPTIONS and _is_flag(keyword.value) for keyword in node.keywords
            )
        case ast.Call(func=ast.Name(id="Integer"), args=[number], keywords=[]):
            return _is_integer(number)
        case ast.Call(func=ast.Name(id="Rational"), args=[above, below], keywords=[]):
            return _is_integer(above) and _is_integer(below)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(digits))]):
            return _is_float(digits) and all(
                keyword.arg == "precision" and _is_integer(keyword.value, 1000)
                for keyword in node.keywords
            )
        case ast.Call(func=ast.Name(id="Pow"), args=[base, exponent], keywords=[]):
            return _is_power(base, exponent) and _is_allowed(base, depth + 1)
        case ast.Call(func=ast.Name(id=name), args=operands, keywords=[]) if name in _ARITHMETIC:
            return all(_is_allowed(operand, depth + 1) for operand in operands)
    return False


def _is_flag(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _is_integer(node: ast.AST, largest: int = _LARGEST) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value <= largest


def _is_float(digits: str) -> bool:
    return bool(re.fullmatch(r"-?[0-9]{1,40}(\.[0-9]{1,60})?(e[+-]?[0-9]{1,3})?", digits))


def _is_power(base: ast.AST, exponent: ast.AST) -> bool:
    """Return whether a power is small: by a small number, of a symbol and of no other power."""
    match exponent:
        case ast.Call(func=ast.Name(id="Integer"), args=[number], keywords=[]):
            names = {each.id for each in ast.walk(base) if isinstance(each, ast.Name)}
            is_small = _is_integer(number, _LARGEST_EXPONENT)
            return is_small and "Symbol" in names and "Pow" not in names
    return False
