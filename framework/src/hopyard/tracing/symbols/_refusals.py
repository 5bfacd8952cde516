"""What is said when a program asks of a symbol what nobody can tell, or promises what cannot be."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch
from sympy.logic.boolalg import Boolean  # type: ignore[import-untyped]
from torch.fx import Graph

from ..._torch.symbolic import GuardOnDataDependentSymNode, ShapeEnv, SymNode
from ...errors import CaptureError, DataDependentError
from ..provenance._locations import is_users
from . import _arithmetic
from ._arithmetic import RememberingTruth
from ._tracker import is_symbolic

_OURS = (__file__, _arithmetic.__file__)
_WATCHED = "evaluate_sym_node"
_lock = threading.Lock()


@contextmanager
def undecidable_reported(
    shape_env: ShapeEnv | None, report: Callable[[Exception], None]
) -> Iterator[None]:
    """Report each decision by a number without a value that the program itself asks for.

    A program may catch the error and go on by another way, which it would not take by itself.
    torch's own code that asks and catches is not reported.
    """
    if shape_env is None:
        yield
        return
    with _lock:
        watch = vars(shape_env).get(_WATCHED)
        if not isinstance(watch, _Watch):
            watch = vars(shape_env)[_WATCHED] = _Watch(shape_env)
        watch.reports.append((threading.get_ident(), report))
    try:
        yield
    finally:
        with _lock:
            watch.reports.remove((threading.get_ident(), report))
            if not watch.reports:
                watch.end(shape_env)


class _Watch:
    """Stands in for the method of a shape environment by which decisions are made.

    What a number remembers to have been decided is not decided again: torch's functions ask here.
    Captures on several threads can share it; each is told of its own thread's decisions.

    Attributes:
        reports: Whom to tell, and on which thread.
    """

    def __init__(self, shape_env: ShapeEnv) -> None:
        self.reports: list[tuple[int, Callable[[Exception], None]]] = []
        self._displaced = vars(shape_env).get(_WATCHED)
        self._evaluate = shape_env.evaluate_sym_node

    def __call__(
        self, number: SymNode, size_oblivious: bool = False, fallback_value: bool | None = None
    ) -> Any:
        if size_oblivious or not isinstance(number, RememberingTruth):
            return self._decide(number, size_oblivious, fallback_value)
        known = number.decided(fallback_value)
        if known is None:
            term = number.term
            known = bool(self._decide(number, size_oblivious, fallback_value))
            number.remember_decision(term, fallback_value, known)
        return known

    def _decide(self, number: SymNode, size_oblivious: bool, fallback_value: bool | None) -> Any:
        try:
            return self._evaluate(number, size_oblivious, fallback_value)
        except GuardOnDataDependentSymNode as error:
            if _asked_by_program(sys._getframe(1)):
                for thread, report in list(self.reports):
                    if thread == threading.get_ident():
                        report(error)
            raise

    def end(self, shape_env: ShapeEnv) -> None:
        """Put back what was there, unless somebody else has done something there since."""
        if vars(shape_env).get(_WATCHED) is not self:
            return
        if self._displaced is None:
            del vars(shape_env)[_WATCHED]
        else:
            vars(shape_env)[_WATCHED] = self._displaced


def explain_symbols(
    error: Exception, shape_env: ShapeEnv | None, graph: Graph
) -> CaptureError | None:
    """Return the error to raise for what a program cannot ask of symbols; None for any other."""
    if isinstance(error, GuardOnDataDependentSymNode):
        return _explain_decision(error, shape_env, graph)
    return _explain_promise(error, shape_env)


def _explain_decision(
    error: GuardOnDataDependentSymNode, shape_env: ShapeEnv | None, graph: Graph
) -> DataDependentError:
    symbols = sorted(error.cond.free_symbols, key=str)
    told = "; ".join(_introduced(symbol, shape_env, graph) for symbol in symbols)
    return DataDependentError(
        f"the program decides by a number that is only known when it runs: {error.cond} cannot be "
        f"decided here" + (f" ({told})" if told else ""),
        hint="; ".join(_ways_out(error.cond, symbols, shape_env)),
        stage="capture",
    )


def _ways_out(condition: Any, symbols: Sequence[Any], shape_env: ShapeEnv | None) -> Iterator[str]:
    if condition.is_Symbol or not isinstance(condition, Boolean):
        yield "keep the number in a tensor, or let the caller pass it as an integer"
        return
    yield (
        "use torch.where or torch.cond, or promise the answer with "
        f"torch._check({condition}), or with the opposite"
    )
    allowed = shape_env.var_to_range.get(symbols[0]) if shape_env and symbols else None
    if allowed is not None and symbols[0].is_integer and allowed.upper > 2:
        yield f"declare a range that decides it, such as torch._check({symbols[0]} >= 2)"


def _explain_promise(error: Exception, shape_env: ShapeEnv | None) -> CaptureError | None:
    condition = _failed_check(error.__traceback__)
    if condition is None:
        return None
    expression = condition.node._expr
    ranges = ", ".join(
        _ranged(symbol, shape_env) for symbol in sorted(expression.free_symbols, key=str)
    )
    return CaptureError(
        f"the program promises {expression}, which cannot be: {ranges}",
        hint="correct the torch._check, or what was declared of the number before, or give "
        "example inputs that meet it",
        stage="capture",
    )


def _asked_by_program(frame: FrameType | None) -> bool:
    """Say whether the innermost frame outside of torch's symbols is the user's."""
    while frame is not None and _is_of_symbols(frame):
        frame = frame.f_back
    return frame is not None and is_users(frame.f_code)


def _is_of_symbols(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file in _OURS or file == torch.__file__ or "/torch/fx/experimental/" in file


def _failed_check(traceback: TracebackType | None) -> Any:
    found = None
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_filename == torch.__file__ and frame.f_code.co_name == "_check_with":
            condition = frame.f_locals.get("cond")
            found = condition if is_symbolic(condition) else found
        traceback = traceback.tb_next
    return found


def _introduced(symbol: Any, shape_env: ShapeEnv | None, graph: Graph) -> str:
    for node in graph.nodes:
        if symbol in node.meta.get("unbacked_bindings", ()):
            return f"{_ranged(symbol, shape_env)}, from {node.name}"
    return _ranged(symbol, shape_env)


def _ranged(symbol: Any, shape_env: ShapeEnv | None) -> str:
    if shape_env is None:
        return str(symbol)
    hint = shape_env.backed_var_to_val.get(symbol)
    if hint is not None:
        return f"{symbol} is {hint} in the example"
    allowed = shape_env.var_to_range.get(symbol)
    return (
        str(symbol) if allowed is None else f"{symbol} is from {allowed.lower} to {allowed.upper}"
    )
