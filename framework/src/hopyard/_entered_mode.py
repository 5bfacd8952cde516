"""Modes of plugins, entered around what is captured."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from hopyard_hookspecs import CaptureRequest, Mode, Report

from .errors import PluginError
from .plugins import KERNEL, Registered, resolve

if TYPE_CHECKING:
    from torch.fx import GraphModule


def place_of(entry: Registered[Mode]) -> tuple[bool, int, str]:
    """Return where a mode stands: below the framework's own are only those of torch."""
    return entry.provider.plugin != KERNEL, entry.value.order, entry.value.name


class EnteredMode(AbstractContextManager[None]):
    """A plugin's mode: its failures are the plugin's, and it cannot hide those of others.

    It is entered around the user's code, and once more around the body of each region, with a
    context manager of its own every time.
    """

    def __init__(self, entry: Registered[Mode], request: CaptureRequest) -> None:
        self._entry = entry
        self._factory: Any = resolve(entry.value.factory, entry.provider)
        self._request = request
        self._outermost: Any = None
        self._inside: list[Any] = []

    def __enter__(self) -> None:
        try:
            mode = self._factory(self._request)
            mode.__enter__()
        except Exception as error:
            raise self._broken(error) from error
        if self._outermost is None:
            self._outermost = mode
        self._inside.append(mode)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            self._inside.pop().__exit__(kind, error, traceback)
        except Exception as another:
            if another is error:
                return
            broken = self._broken(another)
            if error is None:
                raise broken from another
            error.add_note(f"and then {broken}")

    def reports(self, graph_module: GraphModule) -> dict[str, Report]:
        """Return what the mode reports, under its name."""
        if not self._entry.value.reports:
            return {}
        try:
            report = self._outermost.report(graph_module)
            if not isinstance(report, Report):
                raise TypeError(f"its report is a {type(report).__name__}")
        except Exception as error:
            raise self._broken(error) from error
        return {self._entry.value.name: report}

    def _broken(self, error: Exception) -> PluginError:
        return PluginError(
            f"the mode raised {type(error).__name__}: {error}",
            hint="report it to the plugin's authors, or disable the plugin",
            plugin=self._entry.provider,
            stage=self._entry.value.name,
        )
