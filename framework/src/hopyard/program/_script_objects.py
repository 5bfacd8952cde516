"""Objects of C++ classes that torch knows by name: a capture calls none of their methods.

A method would compute with the user's object, and might change it. `torch.export` lets fake objects
stand for those that a module holds or is given, of a Python class that was registered for that,
and records the calls of their methods. So do captures; all other objects can be given to operators
only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import Module

from .._torch.fake import FakeTensorMode
from .._torch.objects import (
    FAKE_CLASS_DECORATOR,
    class_name,
    has_fake_class,
    is_script_object,
    to_fake_object,
)
from ..errors import UnsupportedError
from ._calling import InputLeaf

_CONTENT = "__obj_flatten__"
"""The method that a class needs, besides a fake class, for fake objects to be made."""


class StandIns:
    """Fake objects, and the objects that they stand for."""

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        self._fake_mode = fake_mode
        self._fakes: dict[int, Any] = {}
        self._reals: dict[int, torch.ScriptObject] = {}

    def fake(self, value: torch.ScriptObject) -> Any:
        """Return the fake object that stands for `value`, always the same."""
        if id(value) not in self._fakes:
            made = self._fakes[id(value)] = to_fake_object(self._fake_mode, value)
            self._reals[id(made)] = value
        return self._fakes[id(value)]

    def real(self, value: Any) -> Any:
        """Return what `value` stands for, or itself."""
        return self._reals.get(id(value), value)


@contextmanager
def fake_attributes(target: Callable[..., Any], stand_ins: StandIns) -> Iterator[None]:
    """Let fake objects stand for those that a module and its submodules hold as attributes."""
    if not isinstance(target, Module):
        yield
        return
    found = [
        (module, name, value)
        for module in target.modules()
        for name, value in vars(module).items()
        if is_script_object(value) and can_be_fake(value)
    ]
    for module, name, value in found:
        vars(module)[name] = stand_ins.fake(value)
    try:
        yield
    finally:
        for module, name, value in found:
            vars(module)[name] = value


def refuse_objects(values: Iterable[Any], leaves: Iterable[InputLeaf]) -> None:
    """Refuse inputs for which no fake object can stand.

    Raises:
        UnsupportedError: One of them is such an object.
    """
    for value, leaf in zip(values, leaves, strict=True):
        if is_script_object(value) and not can_be_fake(value):
            raise UnsupportedError(
                f"input {leaf.path} is an object of {_short(value)}, which has no fake class",
                hint=_hint(value),
                stage="capture",
            )


def can_be_fake(value: torch.ScriptObject) -> bool:
    """Return whether fake objects of a class can stand for `value`."""
    return has_fake_class(value) and hasattr(value, _CONTENT)


class _Refusal:
    """Refuses methods of objects in the threads that ask for it.

    The call of a method belongs to the process: of blocks that overlap in time, the first replaces
    it and the last puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted_by = 0
        self._here = threading.local()
        self._call = torch.ScriptMethod.__call__

    @contextmanager
    def in_force(self) -> Iterator[None]:
        with self._lock:
            if not self._wanted_by:
                self._call = torch.ScriptMethod.__call__
                torch.ScriptMethod.__call__ = self._replacement()  # type: ignore[method-assign]
            self._wanted_by += 1
        depth = getattr(self._here, "depth", 0)
        self._here.depth = depth + 1
        try:
            yield
        finally:
            self._here.depth = depth
            with self._lock:
                self._wanted_by -= 1
                if not self._wanted_by:
                    torch.ScriptMethod.__call__ = self._call  # type: ignore[method-assign]

    def _replacement(self) -> Callable[..., Any]:
        call = self._call

        def refuse_or_call(method: Any, *args: Any, **kwargs: Any) -> Any:
            owner = method.raw_owner
            if getattr(self._here, "depth", 0) and is_script_object(owner):
                raise _no_method(owner, method.name)
            return call(method, *args, **kwargs)

        return refuse_or_call


methods_refused = _Refusal().in_force
"""Returns a context in which this thread calls no methods of objects that are not fake."""


def _no_method(owner: torch.ScriptObject, method: str) -> UnsupportedError:
    hint = "make the object an attribute of the module, or an input"
    return UnsupportedError(
        f"the program calls {method} of an object of {_short(owner)}, which might change it "
        "during the capture",
        hint=hint if can_be_fake(owner) else _hint(owner),
        stage="capture",
    )


def _short(value: torch.ScriptObject) -> str:
    """Return the name of a class as its library writes it."""
    *_, namespace, name = class_name(value).split(".")
    return f"{namespace}::{name}"


def _hint(value: torch.ScriptObject) -> str:
    return (
        f"define {_CONTENT} in C++ and register a fake class with "
        f"{FAKE_CLASS_DECORATOR}({_short(value)!r})"
    )
