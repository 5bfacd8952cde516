"""ExecuTorch's passes, each also as it would be if its module imported our pass base instead.

A module of ExecuTorch that mentions its pass base, or a pass on it, is run a second time with
another `__import__`: where it asks for ExecuTorch's base it is given ours, and where it asks for
another such module it is given the second run of that. Nothing of a pass is rewritten. Modules that
mention no pass, and those that define operators, are there once.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import executorch.exir.pass_base as theirs
import executorch_base

from hopyard_export_pass import ExportPass

_BASE = theirs.__name__
_MENTIONS = re.compile(r"^class \w+\(.*Pass|\bExportPass\b", re.MULTILINE)
_DEFINES = re.compile(r"\bLibrary\(.*\bDEF\b")
_ASIDE = {"test", "tests", "examples", "devtools"}


Rebased = executorch_base.ours(theirs)


def modules() -> tuple[list[str], dict[str, str]]:
    """Import what may define passes; return the names, and why others cannot be imported."""
    found, failures = [], {}
    root = Path(str(theirs.__file__)).parents[1]
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root.parent).with_suffix("")
        if _ASIDE & set(relative.parts) or not _MENTIONS.search(path.read_text("utf-8")):
            continue
        name = ".".join(relative.parts).removesuffix(".__init__")
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - toolchains that are missing raise anything
            failures[name] = _first_line(error)
        else:
            found.append(name)
    return found, failures


def passes(names: Sequence[str]) -> Iterator[type]:
    """Return the passes on ExecuTorch's base that modules define, abstract ones left out."""
    for name in names:
        for value in list(vars(importlib.import_module(name)).values()):
            if _is_pass(value) and value.__module__ == name and not inspect.isabstract(value):
                yield value


class Importer:
    """Runs modules a second time, with our base in the place of ExecuTorch's."""

    def __init__(self) -> None:
        facade = ModuleType(_BASE)
        vars(facade).update(vars(theirs))
        executorch_base.replace(facade, Rebased)
        self._modules: dict[str, ModuleType] = {_BASE: facade}

    def rebased(self, kind: type) -> type:
        """Return a pass of ExecuTorch on our base."""
        made: type = vars(self.module(kind.__module__))[kind.__name__]
        assert issubclass(made, ExportPass)
        assert not issubclass(made, theirs._ExportPassBase)
        return made

    def module(self, name: str) -> ModuleType:
        """Return the second run of a module, or the module itself if it mentions no pass."""
        real = importlib.import_module(name)
        if not name.startswith("executorch.") or not _mentions(real):
            return real
        # A package comes before what is in it, as it does when Python imports.
        self.module(name.rpartition(".")[0])
        if name in self._modules:
            return self._modules[name]
        made = ModuleType(name)
        kept = ("__file__", "__package__", "__path__", "__spec__", "__loader__")
        vars(made).update({key: vars(real)[key] for key in kept if key in vars(real)})
        vars(made)["__builtins__"] = {**vars(builtins), "__import__": self._import}
        self._modules[name] = made
        assert real.__loader__ is not None
        exec(real.__loader__.get_code(name), vars(made))  # type: ignore[attr-defined]
        return made

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        real = builtins.__import__(name, globals, locals, fromlist, level)
        if not fromlist:
            return real
        made = self.module(real.__name__)
        children = {
            each: self.module(f"{real.__name__}.{each}")
            for each in fromlist
            if vars(real).get(each, real) is sys.modules.get(f"{real.__name__}.{each}")
        }
        if any(vars(made).get(each) is not child for each, child in children.items()):
            view = ModuleType(real.__name__)
            vars(view).update(vars(made), **children)
            return view
        return made


def _mentions(module: ModuleType) -> bool:
    values = list(vars(module).values())
    if module.__file__ is None or _DEFINES.search(Path(module.__file__).read_text("utf-8")):
        return False
    names = (theirs.NodeMetadata, theirs.ProxyValue, theirs.ExportPassBaseError)
    return any(_is_pass(value) or any(value is each for each in names) for value in values)


def _is_pass(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, theirs._ExportPassBase)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
