"""Running one pass and judging what it returns."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from torch.fx import GraphModule

from hopyard._graph_copy import copy_graph_module
from hopyard.errors import PassError, UsageError, VerificationError
from hopyard.program import Program
from hopyard.verify import check_inputs, count_nodes, verify, walk_graphs
from hopyard_hookspecs import PassRecord, PassStep

from ._changes import first_change, mark_new_nodes
from ._pipeline import BoundPass

if TYPE_CHECKING:
    from hopyard.session import Session


class _Result(Protocol):
    """What a graph pass returns: Hopyard's `PassResult` or torch's."""

    graph_module: GraphModule
    modified: bool


def execute(bound: BoundPass, program: Program, session: Session) -> tuple[Program, PassRecord]:
    """Run one pass on a copy of a program's graph.

    Raises:
        PassError: The pass raised, or returned what it must not.
        VerificationError: It returned a graph that is not sound.
        PluginError: An observer raised.
    """
    before = program.graph_module
    copy = copy_graph_module(before)
    session.plugins.notify("hopyard_before_pass", step=bound.step, graph_module=copy)
    if bound.kind == "program":
        transformed, modified, times = _run_program_pass(bound, program, copy, session)
    else:
        transformed, modified, times = _run_graph_pass(bound, program, copy)
    after = transformed.graph_module
    record = PassRecord(
        bound.step, modified, count_nodes(before), count_nodes(after), times[0], times[1]
    )
    session.plugins.notify("hopyard_after_pass", record=record, graph_module=after)
    return transformed, record


def _run_graph_pass(
    bound: BoundPass, program: Program, copy: GraphModule
) -> tuple[Program, bool, tuple[float, float]]:
    start = perf_counter()
    result = _call(bound, copy)
    returned = perf_counter()
    _check_result(bound.step, result)
    before = program.graph_module
    try:
        verify(result.graph_module)
        change = "" if result.modified else first_change(before, result.graph_module)
        if change:
            raise _failed(
                bound.step,
                f"says that it changed nothing, but {change}",
                hint="return PassResult(graph_module, modified=True)",
            )
        check_inputs(result.graph_module, before)
        after = _own(result.graph_module, copy, result.modified)
        verify(after, propagate=True, since=before)
        transformed = program.with_graph(after)
    except VerificationError as cause:
        raise _unsound(bound.step, cause) from cause
    mark_new_nodes(before, after, _origin(bound.step))
    return transformed, result.modified, (returned - start, perf_counter() - returned)


def _run_program_pass(
    bound: BoundPass, program: Program, copy: GraphModule, session: Session
) -> tuple[Program, bool, tuple[float, float]]:
    given = program.with_graph(copy)
    start = perf_counter()
    result = _call(bound, given, session)
    returned = perf_counter()
    if not isinstance(result, Program):
        raise _failed(bound.step, f"returned {_kind(result)} instead of a Program")
    before = program.graph_module
    try:
        verify(result.graph_module)
        modified = bool(first_change(before, result.graph_module))
        after = _own(result.graph_module, copy, modified)
        verify(after, propagate=True, since=before)
        transformed = result.with_graph(after)
    except VerificationError as cause:
        raise _unsound(bound.step, cause) from cause
    mark_new_nodes(before, after, _origin(bound.step))
    return transformed, modified, (returned - start, perf_counter() - returned)


def _call(bound: BoundPass, *arguments: Any) -> Any:
    try:
        return bound.transform(*arguments)
    except (PassError, UsageError) as error:
        # What an option names is often known only when the pass runs, as with a backend.
        error.plugin = error.plugin or bound.step.provider
        error.stage = error.stage or bound.step.name
        raise
    except Exception as cause:
        raise _failed(bound.step, f"raised {type(cause).__name__}: {cause}") from cause


def _check_result(step: PassStep, result: _Result) -> None:
    hint = "return PassResult(graph_module, modified)"
    graph_module = getattr(result, "graph_module", None)
    if isinstance(result, GraphModule) or not isinstance(graph_module, GraphModule):
        raise _failed(step, f"returned {_kind(result)} instead of a PassResult", hint)
    if not isinstance(getattr(result, "modified", None), bool):
        raise _failed(step, "does not say whether it modified the graph", hint)


def _own(returned: GraphModule, given: GraphModule, modified: bool) -> GraphModule:
    """Return a graph that belongs to nobody else, with code that is what its nodes say.

    Another graph than the one the pass was given may be part of another program, or kept by the
    pass.
    """
    if returned is not given:
        return copy_graph_module(returned)
    for _, body in walk_graphs(returned) if modified else ():
        body.recompile()
    return returned


def _unsound(step: PassStep, cause: VerificationError) -> VerificationError:
    return VerificationError(
        f"pass {step.name!r} returned an unsound graph: {cause.message}",
        hint=cause.hint,
        plugin=step.provider,
        stage=step.name,
        location=cause.location,
    )


def _failed(step: PassStep, problem: str, hint: str = "") -> PassError:
    return PassError(
        f"pass {step.name!r} {problem}", hint=hint, plugin=step.provider, stage=step.name
    )


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _origin(step: PassStep) -> str:
    return f"{step.name} [{step.provider.distribution} {step.provider.version}]"
