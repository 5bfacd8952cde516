"""Running one pass and judging what it returns."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from torch.fx import GraphModule, Node

from hopyard._graph_copy import copy_graph_module
from hopyard.errors import HopyardError, PassError, UsageError, VerificationError
from hopyard.program import Program
from hopyard.tracing import assign_attribute, node_location
from hopyard.verify import (
    check_inputs,
    check_outputs,
    check_region,
    count_nodes,
    verify,
    walk_graphs,
)
from hopyard.verify._graphs import attribute
from hopyard_hookspecs import PassRecord

from ._binding import BoundPass, Condition
from ._changes import first_change
from ._listing import listing
from ._origin import label_nodes, mark_new_nodes, separate_metadata

if TYPE_CHECKING:
    from hopyard.session import Session

    from ._observers import Observers


class _Result(Protocol):
    """What a graph pass returns: Hopyard's `PassResult` or torch's."""

    graph_module: GraphModule
    modified: bool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a pass runs in.

    Attributes:
        session: The plugins.
        observers: Who is told.
        round: Of the group that is repeated.
        region: The path of the body that passes are given, or "" for whole programs.
    """

    session: Session
    observers: Observers
    round: int = 1
    region: str = ""


def execute(
    bound: BoundPass, program: Program, surroundings: Surroundings
) -> tuple[Program, PassRecord]:
    """Run one pass on a copy of a program's graph.

    Raises:
        PassError: The pass raised, or returned what it must not, or it must not run on this graph.
        VerificationError: It returned a graph that is not sound.
        PluginError: An observer raised.
    """
    step = replace(bound.step, round=surroundings.round, region=surroundings.region)
    return _Execution(replace(bound, step=step), program, surroundings).run()


class _Execution:
    """One run of one pass.

    The pass is given `self._given`: the whole of a copy, or the body of a region in it.
    """

    def __init__(self, bound: BoundPass, program: Program, surroundings: Surroundings) -> None:
        self._bound = bound
        self._step = bound.step
        self._program = program
        self._surroundings = surroundings
        self._before = program.graph_module
        self._copy = copy_graph_module(program.graph_module)
        self._given = dict(walk_graphs(self._copy))[self._step.region]
        self._returned = self._given
        self._seconds = 0.0

    def run(self) -> tuple[Program, PassRecord]:
        observers = self._surroundings.observers
        observers.notify("hopyard_before_pass", step=self._step, graph_module=self._given)
        start = perf_counter()
        try:
            transformed, modified = self._transform()
        except Exception as error:
            self._show_graph(error)
            observers.notify_failure(error, self._step, self._returned)
            raise
        spent = perf_counter() - start
        after = transformed.graph_module
        record = PassRecord(
            self._step,
            modified,
            count_nodes(self._before),
            count_nodes(after),
            self._seconds,
            spent - self._seconds,
        )
        seen = dict(walk_graphs(after)).get(self._step.region, after)
        observers.notify("hopyard_after_pass", record=record, graph_module=seen)
        return transformed, record

    def _show_graph(self, error: Exception) -> None:
        if not isinstance(error, PassError):
            return
        try:
            error.graph = listing(self._returned)
        except Exception as another:  # noqa: BLE001
            # Nothing can be relied on in a graph that a pass has broken; the pass's error counts.
            error.add_note(f"the graph it left cannot be shown: {another!r}")

    def _transform(self) -> tuple[Program, bool]:
        self._demand("requires", self._bound.requires, self._given)
        label_nodes(self._given)
        is_program = self._bound.kind == "program"
        try:
            transformed, modified = self._of_program() if is_program else self._of_graph()
        except VerificationError as cause:
            if cause.plugin is not None:
                raise
            raise self._unsound(cause) from cause
        except HopyardError:
            raise
        except Exception as cause:
            # A graph may be broken in ways that torch itself trips over.
            error = f"{type(cause).__name__}: {cause}"
            raise self._unsound(VerificationError(f"it cannot be checked ({error})")) from cause
        mark_new_nodes(self._before, transformed.graph_module, self._step)
        self._demand("ensures", self._bound.ensures, self._returned)
        return transformed, modified

    def _of_graph(self) -> tuple[Program, bool]:
        result = self._call(self._given)
        self._check_result(result)
        self._returned = result.graph_module
        verify(self._returned)
        separate_metadata(self._returned)
        before = dict(walk_graphs(self._before))[self._step.region]
        change = "" if result.modified else first_change(before, self._returned)
        if change:
            raise self._failed(
                f"says that it changed nothing, but {change}",
                hint="return PassResult(graph_module, modified=True)",
            )
        if self._step.region:
            check_region(self._returned, before, self._step.region)
        else:
            check_inputs(self._returned, before)
        after = self._whole(self._owned(self._returned, result.modified))
        verify(after, propagate=True, since=self._before)
        transformed = self._program.with_graph(after)
        check_outputs(after, self._before)
        return transformed, result.modified

    def _of_program(self) -> tuple[Program, bool]:
        given = self._program.with_graph(self._copy)
        result = self._call(given, self._surroundings.session)
        if not isinstance(result, Program):
            raise self._failed(f"returned {_kind(result)} instead of a Program")
        self._returned = result.graph_module
        verify(self._returned)
        separate_metadata(self._returned)
        modified = bool(first_change(self._before, self._returned))
        after = self._owned(self._returned, modified)
        verify(after, propagate=True, since=self._before)
        return result.with_graph(after), modified

    def _call(self, *arguments: Any) -> Any:
        start = perf_counter()
        try:
            return self._bound.transform(*arguments)
        except (PassError, UsageError) as error:
            # What an option names is often known only when the pass runs, as with a backend.
            error.plugin = error.plugin or self._step.provider
            error.stage = error.stage or self._step.name
            raise
        except Exception as cause:
            raise self._raised(cause) from cause
        finally:
            self._seconds = perf_counter() - start

    def _check_result(self, result: _Result) -> None:
        hint = "return PassResult(graph_module, modified)"
        graph_module = getattr(result, "graph_module", None)
        if isinstance(result, GraphModule) or not isinstance(graph_module, GraphModule):
            raise self._failed(f"returned {_kind(result)} instead of a PassResult", hint)
        if not isinstance(getattr(result, "modified", None), bool):
            raise self._failed("does not say whether it modified the graph", hint)

    def _owned(self, returned: GraphModule, modified: bool) -> GraphModule:
        """Return a graph that belongs to nobody else, with code that is what its nodes say.

        Another graph than the one the pass was given may be part of another program, or kept by
        the pass.
        """
        if returned is not self._given:
            return copy_graph_module(returned)
        for _, body in walk_graphs(returned) if modified else ():
            body.recompile()
        return returned

    def _whole(self, made: GraphModule) -> GraphModule:
        """Return the graph with `made` in place of what the pass was given."""
        if self._given is self._copy:
            return made
        for _, body in list(walk_graphs(self._copy)):
            for node in body.graph.find_nodes(op="get_attr"):
                if attribute(body, str(node.target)) is self._given:
                    assign_attribute(body, str(node.target), made)
        return self._copy

    def _demand(
        self, what: str, conditions: Mapping[str, Condition], graph_module: GraphModule
    ) -> None:
        for name, condition in conditions.items():
            try:
                problem = condition(graph_module)
            except Exception as cause:
                raise self._failed(f"{what} {name!r}, which raised {cause!r}") from cause
            if problem:
                given = "was given a graph" if what == "requires" else "returned a graph"
                raise self._failed(
                    f"{what} {name!r}, and {given} that is not: {problem}",
                    hint="let another pass prepare the graph" if what == "requires" else "",
                )

    def _raised(self, cause: Exception) -> PassError:
        node = _node_at_fault(cause.__traceback__, self._given)
        line = _raising_line(cause.__traceback__)
        at = f" at {line}" if line else ""
        doing = f" on node {node.name!r}" if node is not None else ""
        error = self._failed(f"raised {type(cause).__name__}{doing}: {cause}")
        error.hint = f"raised{at}" if at else ""
        error.node = node.name if node is not None else ""
        error.location = node_location(node) if node is not None else None
        return error

    def _unsound(self, cause: VerificationError) -> VerificationError:
        return VerificationError(
            f"pass {self._step.name!r} returned an unsound graph: {cause.message}",
            hint=cause.hint,
            plugin=self._step.provider,
            stage=self._step.name,
            location=cause.location,
            node=cause.node,
        )

    def _failed(self, problem: str, hint: str = "") -> PassError:
        step = self._step
        where = f" on region {step.region!r}" if step.region else ""
        return PassError(
            f"pass {step.name!r}{where} {problem}",
            hint=hint,
            plugin=step.provider,
            stage=step.name,
        )


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _node_at_fault(traceback: TracebackType | None, graph_module: GraphModule) -> Node | None:
    """Return the node that code was working on when it raised, as far as its variables tell.

    That is the node in a variable of the innermost function that has one alone.
    """
    graphs = {body.graph for _, body in walk_graphs(graph_module)}
    found: Node | None = None
    while traceback is not None:
        values = traceback.tb_frame.f_locals.values()
        nodes = {value for value in values if isinstance(value, Node) and value.graph in graphs}
        named = traceback.tb_frame.f_locals.get("node")
        if len(nodes) == 1:
            found = nodes.pop()
        elif isinstance(named, Node) and named in nodes:
            found = named
        traceback = traceback.tb_next
    return found


def _raising_line(traceback: TracebackType | None) -> str:
    """Return the innermost line of the traceback whose source can be read."""
    line = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if linecache.getline(file, traceback.tb_lineno):
            line = f"{file}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return line
