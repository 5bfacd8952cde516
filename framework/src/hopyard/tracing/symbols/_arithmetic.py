"""Arithmetic on symbolic numbers that a capture has done before.

Torch answers each `a * b` and `a == b` of sizes through its symbolic algebra, at tens of
microseconds, and a program asks the same in every layer. What the algebra says is a function of
both expressions, so the numbers of a capture remember it. They stay numbers of their own: a program
gets a new one from each operation, as from torch.

The numbers are torch's, of a subclass that answers from memory. When the capture has ended, it does
what its base does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import sympy  # type: ignore[import-untyped]
import torch

from ..._torch.proxies import current_proxy_mode, suspend_tracing
from ..._torch.symbolic import (
    ShapeEnv,
    SymNode,
    free_unbacked_symbols,
    is_arithmetic_logged,
    is_decided_statically,
)

Operation = Callable[[Any, Any], Any]

_ON_INTEGERS: Final[dict[str, Operation]] = {
    "add": operator.add,
    "eq": operator.eq,
    "ge": operator.ge,
    "gt": operator.gt,
    "int_floordiv": operator.floordiv,
    "le": operator.le,
    "lt": operator.lt,
    "mod": operator.mod,
    "mul": operator.mul,
    "ne": operator.ne,
    "sub": operator.sub,
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
}
"""Methods of integers that are remembered, and the functions that graphs hold for them."""

_ON_TRUTHS: Final[dict[str, Operation]] = {"and_": operator.and_, "or_": operator.or_}
"""The same of truth values."""

_COMMUTING: Final = frozenset((operator.add, operator.and_, operator.mul, operator.or_))
"""Functions of which Python may ask the other operand without changing the answer."""

_expression: Final[Callable[[SymNode], Any]] = vars(SymNode)["expr"].fget


class Arithmetic:
    """What has been computed with the numbers of one capture.

    Args:
        shape_env: What is known of the symbols.

    Attributes:
        is_over: Whether the capture has ended.
        answers: The attributes of results, by operation and operands.
        integers: The integers that are constants.
        truths: The truth values that are.
        decisions: What was decided of conditions, by the condition, its example value, and the
            default of the question.
    """

    def __init__(self, shape_env: ShapeEnv) -> None:
        self._shape_env = shape_env
        # Nothing may be left out of a record of all that is asked.
        self.is_over = (
            is_arithmetic_logged()
            or shape_env.should_record_events
            or shape_env._translation_validation_enabled
        )
        self.answers: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.integers: dict[int, SymNode] = {}
        self.truths: dict[bool, SymNode] = {}
        self.decisions: dict[tuple[Any, ...], bool] = {}
        # Equal expressions are one object, which a dictionary finds without comparing them.
        self._expressions: dict[sympy.Expr, sympy.Expr] = {}

    def adopt(self, node: Any) -> None:
        """Let a number remember, if it is an ordinary one of this capture's symbols."""
        kind = type(node)
        if kind is RememberingNode:
            # It may be left from another capture.
            if not node.arithmetic.is_over:
                return
        elif kind is not SymNode:
            return
        if (
            not self.is_over
            and node.shape_env is self._shape_env
            and type(node._hint) in (node.pytype, type(None))
        ):
            node.arithmetic = self
            node._expr = self.interned(node._expr)
            node.known_at = -1
            # Last, since another thread may ask the number meanwhile.
            node.__class__ = RememberingNode

    def interned(self, expression: sympy.Expr) -> sympy.Expr:
        """Return the one object that stands for all equal expressions."""
        if self.is_over:
            return expression
        return self._expressions.setdefault(expression, expression)

    def end(self) -> None:
        """Forget everything; nothing is remembered from now on."""
        self.is_over = True
        for memory in (self.answers, self.integers, self.truths, self.decisions):
            memory.clear()
        self._expressions.clear()


class RememberingNode(SymNode):
    """A symbolic number that remembers what it was computed with.

    Attributes:
        arithmetic: The memory.
        known_at: The replacements of symbols at which expression and value were looked up.
        value: The value of an expression without symbols; None of any other.
    """

    arithmetic: Arithmetic
    shape_env: ShapeEnv
    known_at: int
    value: int | None

    @property
    def expr(self) -> Any:
        """The expression, with what symbols have been replaced by."""
        if self.known_at != self.shape_env._replacements_version_counter:
            self._look_up()
        return self._expr_cache

    def wrap_int(self, num: int) -> SymNode:
        """Return the number that stands for an integer."""
        known = self.arithmetic.integers.get(num)
        if known is None or type(num) is not int:
            known = self._adopted(super().wrap_int(num), num, self.arithmetic.integers)
        return known

    def wrap_bool(self, num: bool) -> SymNode:
        """Return the number that stands for a truth value."""
        known = self.arithmetic.truths.get(num)
        if known is None or type(num) is not bool:
            known = self._adopted(super().wrap_bool(num), num, self.arithmetic.truths)
        return known

    def _adopted(self, made: SymNode, number: Any, known: dict[Any, SymNode]) -> SymNode:
        """Return a number that was made for a plain one, from now on known among its like."""
        if not self.arithmetic.is_over:
            self.arithmetic.adopt(made)
            known[number] = made
        return made

    def maybe_as_int(self) -> int | None:
        """Return the value of an expression without symbols."""
        if self.pytype is not int:
            return super().maybe_as_int()
        if self.known_at != self.shape_env._replacements_version_counter:
            self._look_up()
        return self.value

    def _look_up(self) -> None:
        found = _expression(self)
        self._expr_cache = self.arithmetic.interned(found)
        self.known_at = self._expr_ver = self.shape_env._replacements_version_counter
        self.value = super().maybe_as_int() if self.pytype is int else None

    def guard_bool(self, file: str, line: int) -> bool:
        """Return the truth value, and let the program depend on it."""
        expression = self.expr
        if expression is sympy.true:
            return True
        if expression is sympy.false:
            return False
        return self._decide(None, super().guard_bool, file, line)

    def guard_or_false(self, file: str, line: int) -> bool:
        """Return the truth value, or False if nobody can tell."""
        if is_decided_statically():
            return super().guard_or_false(file, line)
        return self._decide(False, super().guard_or_false, file, line)

    def guard_or_true(self, file: str, line: int) -> bool:
        """Return the truth value, or True if nobody can tell."""
        if is_decided_statically():
            return super().guard_or_true(file, line)
        return self._decide(True, super().guard_or_true, file, line)

    def expect_true(self, file: str, line: int) -> bool:
        """Return the truth value, and let the program depend on it or check it when it runs."""
        if self.shape_env.prefer_deferred_runtime_asserts_over_guards:
            return super().expect_true(file, line)
        # The base asks by `guard_bool` if all sizes have example values.
        known = self.arithmetic.decisions.get((self.expr, self._hint, None))
        if known is None or self.shape_env._suppress_guards_tls():
            return super().expect_true(file, line)
        return known

    def _decide(
        self, default: bool | None, usual: Callable[[str, int], bool], file: str, line: int
    ) -> bool:
        """Decide as the base does, which adds a guard the first time and no other later.

        That holds for conditions on nothing but sizes with example values. Asked in another way,
        the base may add the same guard again.
        """
        arithmetic = self.arithmetic
        if self._hint is None or arithmetic.is_over or self.shape_env._suppress_guards_tls():
            return usual(file, line)
        key = (self.expr, self._hint, default)
        known = arithmetic.decisions.get(key)
        if known is None:
            known = usual(file, line)
            if not free_unbacked_symbols(key[0]):
                arithmetic.decisions[key] = known
        return known


def _remembered(name: str, function: Operation, kind: type) -> Callable[..., Any]:
    """Return the method that remembers what the base's method of that name computes."""
    usual = getattr(SymNode, name)
    depends_on_ranges = function is operator.mod
    is_sum = function is operator.add
    commutes = function in _COMMUTING

    def compute(self: RememberingNode, other: Any) -> Any:
        if (
            type(other) is not RememberingNode
            or self.pytype is not kind
            or other.pytype is not kind
            or self.arithmetic is not other.arithmetic
            or self.arithmetic.is_over
        ):
            return usual(self, other)
        mode = current_proxy_mode()
        if mode is not None:
            record = getattr(mode, "record_arithmetic", None)
            if record is None or (
                # Python asks the other operand if this one is a plain number.
                self.constant is not None and not (commutes and other.constant is None)
            ):
                return usual(self, other)
            return record(function, self, other, remember)
        return remember(self, other)

    def remember(self: RememberingNode, other: RememberingNode) -> Any:
        arithmetic = self.arithmetic
        key: tuple[Any, ...] = (function, self.expr, other.expr)
        if is_sum:
            key += (self._optimized_summation, other._optimized_summation)
        elif depends_on_ranges:
            key += (self.shape_env._version_counter,)
        key += (self._hint, other._hint)
        known = arithmetic.answers.get(key)
        if known is None:
            with suspend_tracing():
                result = usual(self, other)
            arithmetic.adopt(result)
            if type(result) is not RememberingNode:
                # The capture that remembers has ended on another thread.
                return result
            result._look_up()
            arithmetic.answers[key] = result.__dict__.copy()
            return result
        made = RememberingNode.__new__(RememberingNode)
        made.__dict__ = known.copy()
        return made

    compute.__name__ = name
    compute.__qualname__ = f"{RememberingNode.__qualname__}.{name}"
    return compute


for _kind, _methods in ((int, _ON_INTEGERS), (bool, _ON_TRUTHS)):
    for _name, _function in _methods.items():
        setattr(RememberingNode, _name, _remembered(_name, _function, _kind))
