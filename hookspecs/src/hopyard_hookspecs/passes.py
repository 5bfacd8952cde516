"""Passes: named transformations of a captured graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from ._markers import hookspec
from ._names import check_kebab
from .types import Reference

if TYPE_CHECKING:
    from torch.fx import GraphModule

PassKind: TypeAlias = Literal["graph", "program"]
"""`"graph"`: `(GraphModule) -> PassResult`; `"program"`: `(Program, Session) -> Program`."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a graph pass returns.

    Attributes:
        graph_module: The transformed graph; a pass may return the one it was given, changed in
            place.
        modified: Whether anything changed.
    """

    graph_module: GraphModule
    modified: bool


class GraphPass(Protocol):
    """A transformation of a graph. Its implementation is a frozen dataclass: the fields are its
    options.
    """

    def __call__(self, graph_module: GraphModule, /) -> PassResult:
        """Transform a graph that the pass owns; parameters are placeholders and stay shared."""
        ...


@dataclass(frozen=True, slots=True)
class Pass:
    """A named pass.

    Attributes:
        name: Lower-case words joined by hyphens, unique in a session; the word in pipeline text.
        implementation: A frozen dataclass whose fields, all with defaults unless they must be
            given, are the pass's options, and whose instances are called with the graph.
        summary: One line for listings.
        kind: Whether instances transform a graph module or a whole program.
        requires: What must be true of a graph that the pass is given: functions
            `(GraphModule) -> str` that return what is wrong with a graph, or "". They are asked
            before each run of the pass.
        ensures: What is true of a graph that the pass returns: such functions, asked after each
            run.
        must_run_before: Passes that must be in every pipeline that has this one, after it.
        must_run_after: Passes that must be in every pipeline that has this one, before it.
        runs_before: Passes that, where a pipeline has them, must come after this one.
        runs_after: Passes that, where a pipeline has them, must come before this one.
    """

    name: str
    implementation: Reference
    summary: str = ""
    kind: PassKind = "graph"
    requires: tuple[Reference, ...] = ()
    ensures: tuple[Reference, ...] = ()
    must_run_before: tuple[str, ...] = ()
    must_run_after: tuple[str, ...] = ()
    runs_before: tuple[str, ...] = ()
    runs_after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_kebab("pass", self.name)
        for key in ("must_run_before", "must_run_after", "runs_before", "runs_after"):
            names = getattr(self, key)
            if isinstance(names, str):
                raise TypeError(f"{key} of pass {self.name!r} is text; write ({names!r},)")
            for name in names:
                check_kebab("pass", name)
                if name == self.name:
                    raise ValueError(f"pass {self.name!r} cannot come before or after itself")


@hookspec
def hopyard_register_passes() -> Iterable[Pass]:  # type: ignore[empty-body]
    """Yield the passes that pipelines may name; called once when a session is made.

    Example:
        .. code-block:: python

            @dataclass(frozen=True)
            class FoldScale:
                factor: float = 1.0

                def __call__(self, graph_module):
                    ...
                    return PassResult(graph_module, modified=True)

            @hookimpl
            def hopyard_register_passes():
                yield Pass("fold-scale", FoldScale, summary="Fold a constant factor.")

        Pipeline text then says `fold-scale{factor=10}`. A pass that only works on graphs that
        another has prepared says so, and a pipeline that does not heed it is refused:
        `Pass("fold-scale", FoldScale, must_run_after=("decompose",))`.

    .. versionadded:: 0.1
    """
