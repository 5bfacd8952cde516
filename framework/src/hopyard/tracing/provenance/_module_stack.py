"""The modules whose calls a node was made in, by their paths from the outermost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch.fx import GraphModule, Node
from torch.nn import Module

from ..._torch.provenance import is_compiled
from ._module_views import ModuleViews, path_of_view


class ModulePaths:
    """Where the modules below a root are found; made once per capture.

    Attributes:
        views: If a module has several paths, what tells by which one the program reached it.
    """

    def __init__(self, root: Module) -> None:
        self._root = root
        self._paths: dict[int, str] = {}
        shared = False
        for path, module in root.named_modules(remove_duplicate=False):
            shared = shared or id(module) in self._paths
            self._paths.setdefault(id(module), path)
        self.views = ModuleViews() if shared else None

    def of(self, module: Module) -> str | None:
        """Return a module's path, or None if it is not below the root.

        Of a view it is the path by which the program reached it, else the first there is.
        """
        path = path_of_view(module)
        return self._paths.get(id(module)) if path is None else path


class ModuleStack:
    """The modules that are being called, outermost first, for one graph.

    Args:
        paths: Where modules are found.
    """

    def __init__(self, paths: ModulePaths) -> None:
        self.paths = paths
        self._entries: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._calls: dict[str, int] = {}

    @contextmanager
    def calling(self, module: Module) -> Generator[None, None, None]:
        """Let nodes made meanwhile belong to a call of `module`.

        Modules outside of the root, graphs and compiled modules belong to what calls them.
        """
        path = None if _is_transparent(module) else self.paths.of(module)
        if path is None:
            yield
            return
        number = self._calls.get(path, 0)
        self._calls[path] = number + 1
        key = f"{path}@{number}" if number else path
        self._entries[key] = (path, _name_of(type(module)))
        try:
            yield
        finally:
            del self._entries[key]

    def describe(self, node: Node) -> None:
        """Write the stack on `node`, unless it took one over."""
        stack = node.meta.get("nn_module_stack")
        if stack is None:
            node.meta["nn_module_stack"] = self._entries.copy()
            return
        for key, (path, kind) in stack.items():
            if isinstance(kind, type):
                stack[key] = (path, _name_of(kind))


def _is_transparent(module: Module) -> bool:
    return isinstance(module, GraphModule) or is_compiled(module)


def _name_of(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
