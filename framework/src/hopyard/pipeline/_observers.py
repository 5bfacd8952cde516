"""Who is told of passes: the plugins of a session, and what a caller adds for one run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hopyard.errors import PluginError
from hopyard.plugins import PluginManager

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from hopyard_hookspecs import PassStep


class Observers:
    """The observers of one run.

    Args:
        plugins: Those of the session.
        added: Objects with hooks of their own.

    Raises:
        PluginError: One of `added` has a hook that there is not.
    """

    def __init__(self, plugins: PluginManager, added: Iterable[object] = ()) -> None:
        self._managers = [plugins]
        added = tuple(added)
        if added:
            self._managers.append(PluginManager(plugins=added, discover=False))

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell every observer, those of the session first.

        Raises:
            PluginError: One of them raised; all were told.
        """
        failures: list[PluginError] = []
        for manager in self._managers:
            try:
                manager.notify(hook, **arguments)
            except PluginError as error:
                failures.append(error)
        if failures:
            for other in failures[1:]:
                failures[0].add_note(str(other))
            raise failures[0]

    def notify_failure(self, error: Exception, step: PassStep, graph_module: GraphModule) -> None:
        """Tell every observer that a pass failed; what they raise becomes a note on `error`."""
        try:
            self.notify(
                "hopyard_after_failed_pass", step=step, graph_module=graph_module, error=error
            )
        except PluginError as another:
            error.add_note(str(another))
