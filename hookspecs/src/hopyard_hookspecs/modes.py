"""Modes: context managers that surround a capture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ._markers import hookspec, provisional
from ._names import check_kebab
from .types import Reference

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True, slots=True)
class Mode:
    """A context manager that is entered around the user's code while it is captured.

    Attributes:
        name: Lower-case words joined by hyphens, unique in a session.
        factory: Called with the :class:`~hopyard_hookspecs.types.CaptureRequest` at the start of
            each capture, and again for the body of each region in it; returns a context manager,
            often a `TorchDispatchMode` or `TorchFunctionMode`. A dispatch mode whose
            `supports_higher_order_operators` is true is given the call of a region as such; any
            other sees only what is in the body, and the graph does not keep the region.
        summary: One line for listings.
        order: Modes are entered in ascending order; the smallest is the outermost. Those of
            Hopyard itself come before all others, so that plugins' modes see a call first.
        default: Whether captures use the mode without being asked.
        reports: Whether what the factory returns is a :class:`ReportingMode`. The one that was
            made for the capture as a whole is asked. `hopyard run` uses such a mode without being
            told to, and shows what it reports.
    """

    name: str
    factory: Reference
    summary: str = ""
    order: int = 0
    default: bool = False
    reports: bool = False

    def __post_init__(self) -> None:
        check_kebab("mode", self.name)


@provisional
@dataclass(frozen=True, slots=True)
class Report:
    """What a mode has to say about a capture.

    Attributes:
        summary: One line for a summary.
        lines: Everything, for people.
        data: Everything, for programs: nested plain values that JSON can hold.
    """

    summary: str
    lines: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@provisional
class ReportingMode(Protocol):
    """A mode's context manager that has something to say once the capture succeeded."""

    def report(self, graph_module: GraphModule) -> Report:
        """Return what `program.reports` keeps under the mode's name.

        Called once, after every mode was left, with the graph of the captured program, which it
        must leave as it is.
        """
        ...


@hookspec
def hopyard_register_modes() -> Iterable[Mode]:  # type: ignore[empty-body]
    """Yield the modes that captures may use; called once when a session is made.

    Example:
        .. code-block:: python

            @hookimpl
            def hopyard_register_modes():
                yield Mode("call-count", factory="my_plugin.modes:CallCount", default=True)

    .. versionadded:: 0.1
    """
