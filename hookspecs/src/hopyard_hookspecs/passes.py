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
    """

    name: str
    implementation: Reference
    summary: str = ""
    kind: PassKind = "graph"

    def __post_init__(self) -> None:
        check_kebab("pass", self.name)


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

        Pipeline text then says `fold-scale{factor=10}`.

    .. versionadded:: 0.1
    """
