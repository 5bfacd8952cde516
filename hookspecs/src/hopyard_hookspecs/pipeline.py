"""Observers around captures and passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    """

    index: int
    name: str
    options: Mapping[str, Any]
    provider: Provider


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
