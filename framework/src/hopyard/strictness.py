"""Strict execution: a function that must be one graph, checked from its bytecode."""

from __future__ import annotations

import dis
import inspect
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch

from hopyard_hookspecs import Hop, SourceLocation

from ._torch.fake import detect_fake_mode
from ._torch.functional import functional_value
from ._torch.provenance import function_modes_off
from ._torch.pytree import tree_leaves, tree_map_only
from .errors import UnsupportedError
from .hops import bind, compiler_support
from .hops.compiled import line_of, reason_of
from .tracing import current_location, suspended

_WHOLE = bind(Hop("hopyard__whole", writes=True))
"""A function as one region: Dynamo lets it do nothing to what is outside but write to tensors."""

_EXCEPTIONS = (
    "Observed exception",
    "failed to bind arguments when attempting to inline",
)
"""What Dynamo calls the exceptions that a function itself raises."""

_runners: WeakKeyDictionary[CodeType, dict[Any, Callable[..., Any]]] = WeakKeyDictionary()


class _Analysed(Exception):
    """A function has been found to be one graph; whoever asked wants no more than that."""


def call_strictly(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function(*args)`, provided that a strict capture sees everything it does.

    A print, a branch on a tensor's value, a write to a global or a call into code that cannot be
    analysed would be missing from a graph or frozen in it; here it is an error before the function
    has run. Gradients are recorded as usual. Functions with the same code are analysed once for
    each kind of input. An exception of the function's own is raised as it is.

    Raises:
        UnsupportedError: The function is not one graph; the location is the offending line.
    """
    return _analysed(function, args, "eager")


def check_strictly(function: Callable[..., Any], *args: Any) -> None:
    """Refuse what :func:`call_strictly` would refuse, and run nothing.

    A tracer that is about to run the function sees nothing of this.

    Args:
        function: The function.
        *args: What it will be called with: real, fake or functional tensors and plain values.

    Raises:
        UnsupportedError: The function is not one graph; the location is the offending line.
    """
    args = tree_map_only(torch.Tensor, functional_value, args)
    fake_mode = detect_fake_mode(tree_leaves(args))
    with ExitStack() as stack:
        stack.enter_context(suspended())
        # Those of tracers would be analysed as well.
        stack.enter_context(function_modes_off())
        if fake_mode is not None and fake_mode.shape_env is not None:
            # What is asked of sizes here the program does not depend on.
            stack.enter_context(fake_mode.shape_env.suppress_guards())
        try:
            _analysed(function, args, _analyse_only)
        except _Analysed:
            return


def _analysed(function: Callable[..., Any], args: Any, backend: Any) -> Any:
    from ._torch.compiler import GraphBreak, UncapturedCall, UserError

    missing = compiler_support()
    if missing:
        raise UnsupportedError(
            f"strict execution is not possible: {missing}",
            hint="use a version of torch that Hopyard is tested with",
            stage="strict",
        )
    compiled = _compiled(function, backend)
    with _unlimited():
        try:
            return compiled(function, *args)
        except (GraphBreak, UncapturedCall, UserError) as error:
            kinds = {getattr(each, "gb_type", "") for each in (error, error.__cause__)}
            if not kinds.isdisjoint(_EXCEPTIONS):
                # All the way to it was a graph. Whoever runs the function gets what it raises.
                return None if backend is _analyse_only else function(*args)
            _refuse(error)


def _compiled(function: Callable[..., Any], backend: Any) -> Callable[..., Any]:
    """Return what runs functions of the same code, given one of them and its arguments.

    Dynamo keeps what it compiles with the code that it is given: a single runner for all functions
    would have to be asked about each of them.
    """
    from ._torch.compiler import compiled_whole

    code = _code_of(function)
    key = _run.__code__ if code is None else code
    runners = _runners.setdefault(key, {})
    if backend not in runners:
        if code is not None:
            _refuse_global_writes(code)
        runner = FunctionType(_run.__code__.replace(), globals(), key.co_name)
        runners[backend] = compiled_whole(runner, backend)
    return runners[backend]


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    called = inspect.unwrap(getattr(function, "forward", function))
    return getattr(called, "__code__", None)


def _run(function: Callable[..., Any], *args: Any) -> Any:
    return _WHOLE(function, *args)


def _refuse(error: Any) -> NoReturn:
    hint = "move it out of the strict function, or write it with tensor operators"
    if isinstance(error, UnsupportedError):
        # Where there is a break, the line is that of the break, and the rest that of the region.
        what, hint = getattr(error, "what", error.message), error.hint
        reason = what.removeprefix("does not fit in a graph: ")
        reason, location = reason if reason != what else f"it {what}", error.location
    else:
        reason, location = reason_of(str(error)), line_of(error.real_stack)
    raise UnsupportedError(
        f"a strict capture cannot see all of it: {reason}",
        hint=hint,
        stage="strict",
        location=location or current_location(),
    ) from error


def _analyse_only(graph_module: Any, inputs: Any) -> Callable[..., NoReturn]:
    """Stop as soon as a function would run; Dynamo remembers that for the next time."""

    def stop(*args: Any) -> NoReturn:
        raise _Analysed

    return stop


@contextmanager
def _unlimited() -> Generator[None, None, None]:
    """Let Dynamo analyse a function for as many kinds of inputs as the program has.

    A function without operators is a graph as well, and one that reads the value of a tensor may
    still be one. During an export Dynamo would leave functions alone, and prints out of graphs.
    """
    from ._torch.compiler import settings

    with settings.patch(
        recompile_limit=sys.maxsize,
        accumulated_recompile_limit=sys.maxsize,
        allow_empty_graphs=True,
        capture_scalar_outputs=True,
        force_compile_during_fx_trace=True,
        reorderable_logging_functions=set(),
    ):
        yield


def _refuse_global_writes(code: CodeType) -> None:
    """Refuse a function's own writes to globals, which Dynamo would replay after the graph."""
    pending = [code]
    while pending:
        code = pending.pop()
        pending.extend(const for const in code.co_consts if isinstance(const, CodeType))
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                line = instruction.positions.lineno if instruction.positions else None
                raise UnsupportedError(
                    f"a strict capture cannot see all of it: it writes to {instruction.argval}",
                    hint="return the value instead of keeping it in a global",
                    stage="strict",
                    location=SourceLocation(
                        code.co_filename, line or code.co_firstlineno, code.co_qualname
                    ),
                )
