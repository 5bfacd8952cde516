"""Modes: context managers that surround a capture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ._markers import hookspec
from ._names import check_kebab
from .types import Reference


@dataclass(frozen=True, slots=True)
class Mode:
    """A context manager that is entered around the user's code while it is captured.

    Attributes:
        name: Lower-case words joined by hyphens, unique in a session.
        factory: Called with the :class:`~hopyard_hookspecs.types.CaptureRequest` at the start of
            each capture; returns a context manager, often a `TorchDispatchMode` or
            `TorchFunctionMode`.
        summary: One line for listings.
        order: Modes are entered in ascending order; the smallest is the outermost. Those of
            Hopyard itself come before all others, so that plugins' modes see a call first.
        default: Whether captures use the mode without being asked.
    """

    name: str
    factory: Reference
    summary: str = ""
    order: int = 0
    default: bool = False

    def __post_init__(self) -> None:
        check_kebab("mode", self.name)


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
