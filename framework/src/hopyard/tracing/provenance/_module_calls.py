"""How a capture learns of the modules that its thread calls.

Python looks a call of a module up on `nn.Module`. While some capture with a module stack runs,
forwarders stand there. They ask which stack is the calling thread's own, and on a thread without
one do what they stand for, so that only the capturing thread notices. Dynamo, which reads the code
of what it finds, finds the plain functions through them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from torch.compiler import is_dynamo_compiling
from torch.nn import Module

from ._module_stack import ModuleStack


class _Thread(threading.local):
    stack: ModuleStack | None = None


_thread = _Thread()
_lock = threading.Lock()
_plain_call: Final[Callable[..., Any]] = Module.__call__
_plain_getattr: Final[Callable[..., Any]] = Module.__getattr__
_captures: Final = {"__call__": 0, "__getattr__": 0}
_displaced: Final[dict[str, Callable[..., Any]]] = {}


@contextmanager
def noticed(stack: ModuleStack | None) -> Generator[None, None, None]:
    """Let `stack`, if there is one, and no other learn of the modules that this thread calls."""
    outer, _thread.stack = _thread.stack, stack
    names: tuple[str, ...] = ()
    if stack is not None:
        # Only modules with several paths need to be seen when they are read.
        names = ("__call__",) if stack.paths.views is None else ("__call__", "__getattr__")
    _stand_in(names)
    try:
        yield
    finally:
        _stand_down(names)
        _thread.stack = outer


def _call(self: Module, /, *args: Any, **kwargs: Any) -> Any:
    if is_dynamo_compiling():
        return _plain_call(self, *args, **kwargs)
    stack = _thread.stack
    if stack is None:
        return _displaced.get("__call__", _plain_call)(self, *args, **kwargs)
    with stack.calling(self):
        return _plain_call(self, *args, **kwargs)


def _getattr(self: Module, name: str) -> Any:
    if is_dynamo_compiling():
        return _plain_getattr(self, name)
    stack = _thread.stack
    if stack is None:
        return _displaced.get("__getattr__", _plain_getattr)(self, name)
    value = _plain_getattr(self, name)
    views = stack.paths.views
    return value if views is None or not isinstance(value, Module) else views.attribute(name, value)


_FORWARDERS: Final = {"__call__": _call, "__getattr__": _getattr}


def _stand_in(names: Sequence[str]) -> None:
    for name in names:
        with _lock:
            _captures[name] += 1
            present = getattr(Module, name)
            if present is not _FORWARDERS[name]:
                _displaced[name] = present
                setattr(Module, name, _FORWARDERS[name])


def _stand_down(names: Sequence[str]) -> None:
    for name in names:
        with _lock:
            _captures[name] -= 1
            # Another tracer may have put itself in front, and will put the forwarder back when it
            # ends. That does no harm: the forwarder finds no stack.
            if not _captures[name] and getattr(Module, name) is _FORWARDERS[name]:
                setattr(Module, name, _displaced.pop(name))
