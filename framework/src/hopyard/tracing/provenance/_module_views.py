"""Views of modules that know by which attributes they were reached.

A module that is registered under several names has several paths. While such a program is captured,
reading a submodule gives a view of it: an object of a subclass of the module's class that shares
the module's `__dict__`, and thus its parameters, buffers and attributes, and remembers its path.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

from torch.fx import GraphModule
from torch.nn import Module, ModuleList, Sequential

_PATH = "_hopyard_path"
_BASE = "_hopyard_base"
_VIEWS = "_hopyard_views"


def path_of_view(module: Module) -> str | None:
    """Return the path by which a view was reached; None for a module that is no view."""
    path: str | None = object.__getattribute__(module, _PATH) if is_view(module) else None
    return path


def base_of(module: Module) -> Module:
    """Return the module that a view shows; another module is returned as it is."""
    base: Module = object.__getattribute__(module, _BASE) if is_view(module) else module
    return base


def is_view(module: Module) -> bool:
    """Say whether `module` is a view of another one."""
    return hasattr(type(module), _BASE)


class ModuleViews:
    """Makes the views of one capture."""

    def __init__(self) -> None:
        self._classes: dict[type[Module], type[Module]] = {}
        self._known: dict[int, tuple[Module, Module]] = {}

    def attribute(self, name: str, module: Module) -> Module:
        """Return what reading the attribute `name` gives if its value is `module`.

        The first name under which the program read a module outside of views is kept for it, as
        torch's tracer does.
        """
        if isinstance(module, GraphModule) or is_view(module):
            return module
        known = self._known.get(id(module))
        if known is None:
            # The module is kept, so that its id is not given to another one.
            known = self._known[id(module)] = (module, self.view(module, name))
        return known[1]

    def view(self, module: Module, path: str) -> Module:
        """Return a view of a module, or of what a view shows, that was reached by `path`."""
        base = base_of(module)
        kind = type(base)
        view_class = self._classes.get(kind)
        if view_class is None:
            view_class = self._classes[kind] = _view_class(kind)
        view = object.__new__(view_class)
        object.__setattr__(view, "__dict__", base.__dict__)
        object.__setattr__(view, _PATH, path)
        object.__setattr__(view, _BASE, base)
        object.__setattr__(view, _VIEWS, self)
        return view


def _view_class(kind: type[Module]) -> type[Module]:
    """Return a class of views that passes for `kind` in all but its identity."""

    def _getattr(view: Module, name: str) -> Any:
        value = kind.__getattr__(view, name)
        return _child(view, value, name) if isinstance(value, Module) else value

    def _getitem(view: Any, index: Any) -> Any:
        if not isinstance(index, slice):
            return cast("Any", kind).__getitem__(view, index)
        chosen = dict(list(view.__dict__["_modules"].items())[index])
        if issubclass(kind, Sequential):
            return _child(view, Sequential(OrderedDict(chosen)), index)
        return _child(view, ModuleList(chosen.values()), index)

    namespace = {
        # What a view knows is kept beside its dictionary, which is the module's.
        "__slots__": (_PATH, _BASE, _VIEWS),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__getattr__": _getattr,
        "__reduce_ex__": _reduce,
        "_modules": property(_modules),
    }
    if issubclass(kind, (Sequential, ModuleList)):
        namespace["__getitem__"] = _getitem
    return type(kind.__name__, (kind,), namespace)


def _child(view: Module, module: Module, name: object) -> Module:
    views: ModuleViews = object.__getattribute__(view, _VIEWS)
    return views.view(module, f"{path_of_view(view)}.{name}")


def _modules(view: Module) -> dict[str, Module | None]:
    return {
        name: None if module is None else _child(view, module, name)
        for name, module in view.__dict__["_modules"].items()
    }


def _reduce(view: Module, protocol: Any) -> Any:
    """Copies of a view are copies of the module."""
    return base_of(view).__reduce_ex__(protocol)
