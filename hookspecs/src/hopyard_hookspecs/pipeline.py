"""Observers around captures and passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ._markers import hookspec
from .types import CaptureRequest, Provider

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True, slots=True)
class PassStep:
    """One pass of a running pipeline.

    Attributes:
        index: Position in the pipeline, from 0.
        name: The pass's registered name.
        options: Its options, by name, defaults included.
        provider: Who registered it.
        round: In a group that is repeated, which run of it this is, from 1; of the innermost group.
        region: In a group for bodies of regions, the path of the body it runs on, else "".
    """

    index: int
    name: str
    options: Mapping[str, Any]
    provider: Provider
    round: int = 1
    region: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which pass made a node, and from which nodes; a node keeps it in `meta[Origin.KEY]`.

    Attributes:
        KEY: The key in a node's metadata.
        name: The pass.
        provider: Who registered it.
        nodes: Names of the nodes it was made from, in the graph that the pass was given; none if
            that cannot be told.
        earlier: The origins of those of them that passes made.
    """

    KEY: ClassVar[str] = "hopyard_origin"

    name: str
    provider: Provider
    nodes: tuple[str, ...] = ()
    earlier: tuple[Origin, ...] = ()

    def __str__(self) -> str:
        made = f"{self.name} [{self.provider.distribution} {self.provider.version}]"
        made = f"{made} from {', '.join(self.nodes)}" if self.nodes else made
        return "; ".join([made, *map(str, self.earlier)])


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What one pass did.

    Attributes:
        step: The pass.
        modified: Whether it changed the graph.
        nodes_before: Number of graph nodes that it was given.
        nodes_after: Number of graph nodes that it returned.
        seconds: Wall time of the pass, without verification.
        verify_seconds: Wall time of the verification after it.
    """

    step: PassStep
    modified: bool
    nodes_before: int
    nodes_after: int
    seconds: float
    verify_seconds: float = field(default=0.0)


@hookspec
def hopyard_before_capture(request: CaptureRequest) -> None:
    """Observe a capture about to start; called once per capture, before modes are entered.

    Example:
        .. code-block:: python

            @hookimpl
            def hopyard_before_capture(request):
                print("capturing", request.target)

    .. versionadded:: 0.1
    """


@hookspec
def hopyard_after_capture(
    request: CaptureRequest, graph_module: GraphModule | None, error: BaseException | None
) -> None:
    """Observe the end of a capture; called once per capture, after every mode was left.

    `graph_module` is None if the capture failed, `error` is None if it did not.

    Example:
        .. code-block:: python

            @hookimpl
            def hopyard_after_capture(graph_module, error):
                print("failed" if error else f"{len(graph_module.graph.nodes)} nodes")

    .. versionadded:: 0.1
    """


@hookspec
def hopyard_before_pass(step: PassStep, graph_module: GraphModule) -> None:
    """Observe a pass that is about to run; called once per pass with the graph it will be given.

    Example:
        .. code-block:: python

            @hookimpl
            def hopyard_before_pass(step, graph_module):
                print(step.name, len(graph_module.graph.nodes))

    .. versionadded:: 0.1
    """


@hookspec
def hopyard_after_pass(record: PassRecord, graph_module: GraphModule) -> None:
    """Observe a pass that ran and whose result was verified; called once per successful pass.

    Example:
        .. code-block:: python

            @hookimpl
            def hopyard_after_pass(record, graph_module):
                print(f"{record.step.name}: {record.seconds:.3f} s")

    .. versionadded:: 0.1
    """


@hookspec
def hopyard_after_failed_pass(
    step: PassStep, graph_module: GraphModule, error: BaseException
) -> None:
    """Observe a pass that failed; called once per failed pass, before its error is raised.

    The graph is what the pass returned, or what it left of the graph it was given if it returned
    none. It need not be sound.

    Example:
        .. code-block:: python

            @hookimpl
            def hopyard_after_failed_pass(step, graph_module, error):
                print(step.name, "failed on", graph_module.graph)

    .. versionadded:: 0.1
    """
