"""What went wrong in a capture, in terms of the user's program."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

from torch import Tensor
from torch.fx import Graph

from .._torch.fake import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedOperatorException,
    active_fake_mode,
)
from .._torch.pytree import tree_leaves
from .._torch.symbolic import ShapeEnv
from ..errors import CaptureError, DataDependentError, UnsupportedError
from .provenance._locations import raising_location
from .recording._slots import is_left_over
from .symbols._refusals import explain_symbols

_NOTE = "_hopyard_failure"


class Failure(NamedTuple):
    """What is known where an operator raises.

    Attributes:
        operator: The operator.
        problem: Its operands' fault, or "" if they have none that we know of.
        hint: What to do about it.
    """

    operator: str
    problem: str = ""
    hint: str = ""


def note_failure(error: Exception, operator: Any, operands: Any) -> None:
    """Keep with an exception which operator raised it; the innermost one counts.

    It is kept on the exception itself: that is where it is if the program passes it on, and gone if
    the program handles it.
    """
    name = str(operator)
    if isinstance(error, CaptureError):
        error.operator = error.operator or name
    elif not hasattr(error, _NOTE):
        setattr(error, _NOTE, _failure(error, name, operands))


def explain(
    error: Exception,
    declined: tuple[str, str] | None,
    shape_env: ShapeEnv | None,
    graph: Graph,
) -> CaptureError:
    """Return the error to raise for an exception that ended a capture.

    Args:
        error: What the captured function raised.
        declined: The operator and the tensor subclass that the tracer left to others, if any.
        shape_env: What is known of symbols, if the capture has any.
        graph: What was recorded.
    """
    failure = next(_notes(error), Failure(""))
    explained = explain_symbols(error, shape_env, graph)
    if explained is None:
        explained = _explanation(error, failure, declined)
    elif not explained.operator:
        explained.operator = failure.operator
    explained.location = raising_location(error.__traceback__)
    return explained


def _explanation(
    error: Exception, failure: Failure, declined: tuple[str, str] | None
) -> CaptureError:
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        return DataDependentError(
            f"{error.func} depends on the values of a tensor, which a fake capture lacks",
            hint="keep the value in a tensor, or compute it outside the captured function",
            stage="capture",
            operator=str(error.func),
        )
    if isinstance(error, UnsupportedOperatorException):
        return UnsupportedError(
            f"nobody says what {error.func} returns for fake tensors",
            hint="register that with torch.library.register_fake",
            stage="capture",
            operator=str(error.func),
        )
    if failure.problem:
        return UnsupportedError(
            f"{failure.operator} {failure.problem}",
            hint=failure.hint,
            stage="capture",
            operator=failure.operator,
        )
    if declined is not None and _is_refused_everywhere(error, *declined):
        operator, subclass = declined
        return UnsupportedError(
            f"neither the tracer nor the tensor subclass {subclass} handles {operator}",
            hint="pass the plain tensors that it is made from, or handle the operator in its "
            "__torch_dispatch__",
            stage="capture",
            operator=operator,
        )
    if _is_compiled(error.__traceback__):
        return UnsupportedError(
            "the program calls a function that torch.compile has compiled",
            hint="let it call the function that was given to torch.compile",
            stage="capture",
        )
    return CaptureError(
        f"the captured function raised {type(error).__name__}: {error}",
        hint="it must run on the example inputs without hopyard as well",
        stage="capture",
        operator=failure.operator,
    )


def _failure(error: Exception, operator: str, operands: Any) -> Failure:
    if not isinstance(error, AssertionError):
        # Fake tensors refuse whom they cannot be computed with by an assertion.
        return Failure(operator)
    tensors = [value for value in tree_leaves(operands) if isinstance(value, Tensor)]
    modes = {id(value.fake_mode) for value in tensors if isinstance(value, FakeTensor)}
    active = active_fake_mode()
    if active is not None:
        modes.add(id(active))
    if len(modes) > 1 and any(map(is_left_over, tensors)):
        return Failure(
            operator,
            "takes a fake tensor that an earlier capture made and the program put aside",
            "return such tensors instead; hopyard.tracing.watch_leaks names the line that made it",
        )
    if len(modes) > 1:
        return Failure(
            operator,
            "mixes tensors of several fake modes",
            "make all of them with one FakeTensorMode; a capture uses that of its inputs",
        )
    if modes and any(not isinstance(value, FakeTensor) for value in tensors):
        return Failure(
            operator,
            "takes a real tensor together with fake ones",
            "pass the tensor as an input (a module's through torch.func.functional_call), or "
            "capture with _allow_non_fake_inputs=True",
        )
    return Failure(operator)


def _notes(error: BaseException | None) -> Iterator[Failure]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        note = getattr(error, _NOTE, None)
        if note is not None:
            yield note
        error = error.__cause__ or error.__context__


def _is_refused_everywhere(error: Exception, operator: str, subclass: str) -> bool:
    """Say whether Python gave up because everybody who was asked returned NotImplemented."""
    message = str(error)
    gave_up = "NotImplemented" in message or "unsupported operand type" in message
    about_it = operator in message or subclass.rpartition(".")[2] in message
    return isinstance(error, TypeError) and gave_up and about_it


def _is_compiled(traceback: TracebackType | None) -> bool:
    """Say whether a traceback ends in the wrapper that calls what was compiled."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code.co_name == "compile_wrapper"
