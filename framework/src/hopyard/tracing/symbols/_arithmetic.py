"""Arithmetic on symbolic numbers that a capture has done before.

Torch answers each `a * b` and `a == b` of sizes through its symbolic algebra, at tens of
microseconds, and a program asks the same in every layer. What the algebra says is a function of
both expressions, so the numbers of a capture remember it. They stay numbers of their own: a program
gets a new one from each operation, as from torch.

The numbers are torch's, of a subclass that answers from memory. When the capture has ended, it does
what its base does.
"""

from __future__ import annotations

import functools
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
from ..memory._products import answers_always, making

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

_MIRRORED: Final[dict[Operation, Operation]] = {
    operator.eq: operator.eq,
    operator.ge: operator.le,
    operator.gt: operator.lt,
    operator.le: operator.ge,
    operator.lt: operator.gt,
    operator.ne: operator.ne,
}
"""Comparisons, and what Python asks the other operand when a plain number is compared with it."""

_remember: Final[dict[Operation | None, Operation]] = {}
"""What answers an operation from memory, or asks and remembers; filled when methods are made."""

_expression: Final[Callable[[SymNode], Any]] = vars(SymNode)["expr"].fget


class Term:
    """What is remembered of all numbers of one kind, one expression and one example value.

    The expression is that after replacements: a number whose symbols are replaced has another term.

    Attributes:
        expression: The expression.
        value: Its value, if it is an integer without symbols.
        is_symbol: Whether it is one symbol.
        answers: The classes and attributes of results, by operation and the other operand's term;
            of a sum also by how both operands were made, of a remainder by what is known of ranges.
        decisions: What was decided of it, by the default of the question.
    """

    __slots__ = ("answers", "decisions", "expression", "is_symbol", "value")

    def __init__(self, expression: sympy.Expr, value: int | None) -> None:
        self.expression = expression
        self.value = value
        self.is_symbol = isinstance(expression, sympy.Symbol)
        self.answers: dict[tuple[Any, ...], tuple[type[SymNode], dict[str, Any]]] = {}
        self.decisions: dict[bool | None, bool] = {}


class Arithmetic:
    """What has been computed with the numbers of one capture.

    Args:
        shape_env: What is known of the symbols.

    Attributes:
        is_over: Whether the capture has ended.
        integers: The integers that are constants.
        truths: The truth values that are.
    """

    def __init__(self, shape_env: ShapeEnv) -> None:
        self._shape_env = shape_env
        # Nothing may be left out of a record of all that is asked.
        self.is_over = (
            is_arithmetic_logged()
            or shape_env.should_record_events
            or shape_env._translation_validation_enabled
        )
        self.integers: dict[int, SymNode] = {}
        self.truths: dict[bool, SymNode] = {}
        self._terms: dict[tuple[Any, ...], Term] = {}

    def adopt(self, node: Any) -> None:
        """Let a number remember, if it is an ordinary one of this capture's symbols."""
        kind = type(node)
        if kind in _REMEMBERING:
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
            node.known_at = -1
            with making:
                # Last, since another thread may ask the number meanwhile.
                if type(node) is kind:
                    node.__class__ = _KINDS.get(node.pytype, RememberingNode)

    def term(self, expression: sympy.Expr, number: SymNode) -> Term:
        """Return the one object that stands for numbers of an expression and an example value."""
        key = (number.pytype, expression, number._hint)
        known = self._terms.get(key)
        if known is None:
            is_value = number.pytype is int and expression.is_number
            known = Term(expression, int(expression) if is_value else None)
            if not self.is_over:
                self._terms[key] = known
        return known

    def end(self) -> None:
        """Forget everything; nothing is remembered from now on."""
        self.is_over = True
        for term in self._terms.values():
            # Numbers that outlive the capture keep theirs.
            term.answers.clear()
            term.decisions.clear()
        for memory in (self._terms, self.integers, self.truths):
            memory.clear()


class RememberingNode(SymNode):
    """A symbolic number that remembers what it was computed with.

    Attributes:
        arithmetic: The memory.
        term: What is remembered of the expression.
        known_at: The replacements of symbols at which the term was looked up.
    """

    arithmetic: Arithmetic
    shape_env: ShapeEnv
    term: Term
    known_at: int

    @property
    def expr(self) -> Any:
        """The expression, with what symbols have been replaced by."""
        if self.known_at != self.shape_env._replacements_version_counter:
            self.look_up()
        return self.term.expression

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
        if self.known_at != self.shape_env._replacements_version_counter:
            self.look_up()
        return self.term.value if self.pytype is int else super().maybe_as_int()

    def look_up(self) -> None:
        """Find out what the number is with what symbols have been replaced by."""
        version = self.shape_env._replacements_version_counter
        self.term = self.arithmetic.term(_expression(self), self)
        # Last, since another thread may ask the number meanwhile.
        self.known_at = version

    def guard_bool(self, file: str, line: int) -> bool:
        """Return the truth value, and let the program depend on it."""
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
        known = self.decided(None)
        return super().expect_true(file, line) if known is None else known

    def _decide(
        self, default: bool | None, usual: Callable[[str, int], bool], file: str, line: int
    ) -> bool:
        known = self.decided(default)
        if known is None:
            term = self.term
            known = usual(file, line)
            self.remember_decision(term, default, known)
        return known

    def decided(self, default: bool | None) -> bool | None:
        """Return what was decided of the number; None if nothing was, asked with this default."""
        if self.known_at != self.shape_env._replacements_version_counter:
            self.look_up()
        return self.term.decisions.get(default)

    def remember_decision(self, term: Term, default: bool | None, decision: bool) -> None:
        """Remember what the base has decided, if it would decide so again and do nothing else.

        It adds a guard the first time and no other later, which holds for conditions on nothing but
        sizes with example values. Asked in another way, it may add the same guard again. While
        guards are suppressed it adds none, so what it says then is not remembered.

        Args:
            term: What the number was before: a decision may replace symbols.
            default: What is to be decided if nobody can tell.
            decision: What it has decided.
        """
        if (
            self._hint is not None
            and not self.arithmetic.is_over
            and not self.shape_env._suppress_guards_tls()
            and not free_unbacked_symbols(term.expression)
        ):
            term.decisions[default] = decision


class RememberingInteger(RememberingNode):
    """One that is an integer."""

    # Torch asks several times about each number that it is given; a function in C answers sooner.
    is_int = staticmethod(functools.partial(bool, True))


class RememberingTruth(RememberingNode):
    """One that is a truth value."""

    is_bool = staticmethod(functools.partial(bool, True))


_KINDS: Final[dict[type, type[RememberingNode]]] = {
    int: RememberingInteger,
    bool: RememberingTruth,
}
_REMEMBERING: Final = frozenset((RememberingNode, *_KINDS.values()))


def _remembered(name: str, function: Operation, kind: type[RememberingNode]) -> Callable[..., Any]:
    """Return the method that remembers what the base's method of that name computes.

    A program asks dozens of questions of sizes on the way to one tensor: `make bench-trace` shows
    what each costs.
    """
    usual = getattr(SymNode, name)
    depends_on_ranges = function is operator.mod
    is_sum = function is operator.add
    commutes = function in _COMMUTING
    mirrored = _MIRRORED.get(function)

    def compute(self: RememberingNode, other: Any) -> Any:
        if (
            type(other) is not kind
            or type(self) is not kind
            or self.arithmetic is not other.arithmetic
            or self.arithmetic.is_over
        ):
            return usual(self, other)
        mode = current_proxy_mode()
        if mode is None:
            return remember(self, other)
        record = getattr(mode, "record_arithmetic", None)
        if record is None:
            return usual(self, other)
        if self.constant is None or (commutes and other.constant is None):
            return record(function, self, other, remember)
        if mirrored is None or other.constant is not None:
            return usual(self, other)
        return record(function, self, other, mirror)

    def mirror(self: RememberingNode, other: RememberingNode) -> Any:
        # Python asks the other operand if this one is a plain number.
        return _remember[mirrored](other, self)

    def remember(self: RememberingNode, other: RememberingNode) -> Any:
        version = self.shape_env._replacements_version_counter
        if self.known_at != version:
            self.look_up()
        if other.known_at != version:
            other.look_up()
        key: tuple[Any, ...] = (function, other.term)
        if is_sum:
            key += (self._optimized_summation, other._optimized_summation)
        elif depends_on_ranges:
            key += (self.shape_env._version_counter,)
        answers = self.term.answers
        known = answers.get(key)
        if known is None:
            with suspend_tracing():
                result = usual(self, other)
            self.arithmetic.adopt(result)
            if not isinstance(result, RememberingNode):
                # The capture that remembers has ended on another thread.
                return result
            result.look_up()
            answers[key] = type(result), result.__dict__.copy()
            return result
        made: Any = known[0].__new__(known[0])
        made.__dict__ = known[1].copy()
        if made.known_at != version:
            # Once for all that are made from now on.
            made.look_up()
            answers[key] = known[0], made.__dict__.copy()
        return made

    _remember[function] = remember
    compute.__name__ = name
    compute.__qualname__ = f"{kind.__qualname__}.{name}"
    return compute


for _kind, _methods in ((RememberingInteger, _ON_INTEGERS), (RememberingTruth, _ON_TRUTHS)):
    for _name, _function in _methods.items():
        setattr(_kind, _name, _remembered(_name, _function, _kind))

answers_always(RememberingInteger)
