"""Writes reference pages from what Hopyard's packages declare.

A page holds a comment `<!-- generated: WHAT [MODULE] -->` where the reference belongs. This
extension puts Markdown in its place before the page is parsed, so a new hook, value type, error or
public name is documented by existing:

`hooks`
    every hook and the values it deals in, a section a topic;
`members MODULE`
    what a module makes public;
`packages MODULE`
    the same for each of its public submodules, a section each.

Whatever is marked as provisional says so wherever it is documented.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_origin

from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode

import hopyard_hookspecs

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

_COMMENT = re.compile(r"^<!-- generated: (\w+) ?([\w.]*) -->$", re.MULTILINE)
_ELSEWHERE = ("hopyard.errors", "hopyard.cli")
_PROVISIONAL = [
    ".. admonition:: Provisional",
    "   :class: warning",
    "",
    "   This may still change in a minor release of hopyard-hookspecs.",
    "",
]


def expand(text: str) -> str:
    """Return a page with each comment replaced by the reference it asks for."""
    writers: dict[str, Callable[[str], Iterator[str]]] = {
        "hooks": _hooks,
        "members": _members,
        "packages": _packages,
    }
    return _COMMENT.sub(lambda found: "\n".join(writers[found[1]](found[2])), text)


def _hooks(_module: str) -> Iterator[str]:
    for topic in hopyard_hookspecs.specifications():
        yield from _topic(topic)
    yield from _topic(importlib.import_module("hopyard_hookspecs.types"))
    yield from _topic(importlib.import_module("hopyard_hookspecs._markers"))


def _topic(module: ModuleType) -> Iterator[str]:
    """Yield a section on one module of the contract: its hooks, then the values they deal in."""
    title, _, summary = (module.__doc__ or "").strip().partition(": ")
    yield f"## {title.strip().rstrip('.')}\n"
    if summary:
        yield f"{summary[0].upper()}{summary[1:]}\n"
    names = [name for name in _own_names(module) if not name.startswith("_")]
    for name in sorted(names, key=lambda name: not name.startswith("hopyard_")):
        home = hopyard_hookspecs if hasattr(hopyard_hookspecs, name) else module
        yield from _documented(home.__name__, name)


def _members(module: str) -> Iterator[str]:
    package = importlib.import_module(module)
    elsewhere = _also_offered_by(module.rpartition(".")[0])
    for name in _public_names(package):
        value = getattr(package, name)
        if not inspect.ismodule(value) and not any(value is other for other in elsewhere):
            yield from _documented(module, name)


def _also_offered_by(parent: str) -> list[object]:
    """Return what the package above offers, and what is therefore documented there."""
    if not parent:
        return []
    package = importlib.import_module(parent)
    return [getattr(package, name) for name in getattr(package, "__all__", [])]


def _packages(module: str) -> Iterator[str]:
    package = importlib.import_module(module)
    for found in pkgutil.iter_modules(package.__path__, f"{module}."):
        private = found.name.rpartition(".")[2].startswith("_")
        if private or found.name in _ELSEWHERE:
            continue
        yield f"## `{found.name}`\n"
        # A function may be called like the module it is in; the name then stands for the function.
        options = ":no-index:" if _names_no_module(package, found.name) else ""
        yield f"```{{eval-rst}}\n.. automodule:: {found.name}\n   :no-members:\n   {options}\n```\n"
        yield from _members(found.name)


def _names_no_module(package: ModuleType, submodule: str) -> bool:
    return submodule.rpartition(".")[2] in getattr(package, "__all__", [])


def _public_names(module: ModuleType) -> list[str]:
    """Return what a package re-exports or a module defines, in the order of its source."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    names = [*_re_exports(module), *_own_names(module)]
    return [name for name in names if not name.startswith("_")]


def _re_exports(module: ModuleType) -> dict[str, str]:
    """Return the modules behind each `from ._private import name as name`, by name."""
    package = module.__name__ if hasattr(module, "__path__") else module.__package__
    homes = {}
    for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        home = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        homes |= {alias.name: home for alias in node.names if alias.asname == alias.name}
    return homes


def _own_names(module: ModuleType) -> list[str]:
    """Return the functions, classes and documented values a module defines, in source order."""
    analyzer = _analyzed(module.__name__)
    documented = {name for scope, name in analyzer.attr_docs if not scope}
    defined = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
        and (inspect.isclass(value) or inspect.isroutine(value))
    }
    return sorted(documented | defined, key=lambda name: analyzer.tagorder.get(name, 0))


def _documented(module: str, name: str) -> Iterator[str]:
    value = getattr(importlib.import_module(module), name)
    yield "```{eval-rst}"
    if inspect.isclass(value) and issubclass(value, BaseException):
        yield f".. autoexception:: {module}.{name}"
        yield "   :show-inheritance:"
    elif inspect.isclass(value):
        yield f".. autoclass:: {module}.{name}"
    elif inspect.isroutine(value):
        yield f".. autofunction:: {module}.{name}"
    else:
        yield from _data(module, name, value)
    yield "```\n"


def _data(module: str, name: str, value: Any) -> Iterator[str]:
    """Yield the description of a value, whose text stands below it where it is defined."""
    home = _re_exports(importlib.import_module(module)).get(name, module)
    yield f".. py:data:: {name}"
    yield f"   :module: {module}"
    if isinstance(value, str) or get_origin(value):
        yield f"   :value: {re.sub(r'(typing|collections.abc)[.]', '', repr(value))}"
    if home != module:
        yield f"   :canonical: {home}.{name}"
    yield ""
    for line in _analyzed(home).attr_docs.get(("", name), []):
        yield f"   {line}"


def _analyzed(module: str) -> ModuleAnalyzer:
    analyzer = ModuleAnalyzer.for_module(module)
    analyzer.analyze()
    return analyzer


def _expand_source(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = expand(source[0])


def _mark_provisional(
    _app: Sphinx, _what: str, _name: str, subject: object, _options: object, lines: list[str]
) -> None:
    if getattr(subject, "__dict__", {}).get("__provisional__"):  # its own mark, not its base's
        lines[:0] = _PROVISIONAL


def _resolve_short_name(
    app: Sphinx, env: BuildEnvironment, reference: pending_xref, content: Element
) -> Element | None:
    """Link a name that a docstring gives without its module, if only one object can be meant."""
    domain = env.domains.python_domain
    if reference.get("refdomain") != "py":
        return None
    found = {
        (entry.docname, entry.node_id): name
        for name, entry in domain.objects.items()
        if name.endswith(f".{reference['reftarget']}") and name.startswith("hopyard")
    }
    if len(found) != 1:
        return None
    ((page, anchor), name) = found.popitem()
    return make_refnode(app.builder, reference["refdoc"], page, anchor, content, name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to Sphinx."""
    app.connect("source-read", _expand_source)
    app.connect("autodoc-process-docstring", _mark_provisional)
    app.connect("missing-reference", _resolve_short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
