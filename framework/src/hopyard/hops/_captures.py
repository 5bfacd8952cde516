"""Tensors that a body takes from around it, and how others are put in their place."""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._torch.pytree import tree_map_only
from ..errors import UnsupportedError
from ..tracing import current_location

Find = Callable[[Tensor], Tensor]


class Looking(threading.local):
    """Who looks, on this thread, at what a running body captures.

    Attributes:
        find: Returns what stands in for a tensor there; None if nobody looks.
    """

    find: Find | None = None


looking = Looking()


@contextmanager
def looked_at(find: Find | None) -> Generator[None, None, None]:
    """Run a body, some of whose tensors others stand in for."""
    before, looking.find = looking.find, find
    try:
        yield
    finally:
        looking.find = before


def not_looking() -> AbstractContextManager[None]:
    """Do something for a tracer's sake within a body that is looked at."""
    return looked_at(None)


class StandIns(TorchFunctionMode):
    """Puts other tensors in the place of those that a program passes to torch's functions.

    Only while they are what is looked for: within a call that is itself looked at, and in what a
    tracer does for its own sake, they are not. What a program hands to torch without calling one of
    its functions is not seen: the arguments of a `torch.autograd.Function`, for one.

    Args:
        find: Returns what to put in the place of a tensor; the tensor itself to leave it there.
    """

    def __init__(self, find: Find) -> None:
        super().__init__()
        self._find = find

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function with the stand-ins."""
        if looking.find != self._find:
            return func(*args, **(kwargs or {}))
        replaced = [self._replace(arg) for arg in args]
        if replaced and replaced[0] is not args[0] and getattr(func, "__name__", "") == "__set__":
            raise UnsupportedError(
                "the body of a region sets an attribute of a tensor that it captures",
                hint="pass the tensor as an operand and return the new value",
                stage="hop",
                location=current_location(),
            )
        keywords = {name: self._replace(value) for name, value in (kwargs or {}).items()}
        return func(*replaced, **keywords)

    def _replace(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._find(value)
        if type(value) in (list, tuple):
            replaced = [self._replace(item) for item in value]
            if all(new is old for new, old in zip(replaced, value, strict=True)):
                return value
            return type(value)(replaced)
        return value


class Lifted:
    """A body that is given, after its operands, what it would otherwise capture.

    Args:
        body: The body.
        captured: The tensors that it captures, in the order in which they will be given.
    """

    def __init__(self, body: Callable[..., Any], captured: tuple[Tensor, ...]) -> None:
        self._body = body
        self._captured = captured
        # Whoever names a graph after its function asks for it.
        self.__name__ = getattr(body, "__name__", type(body).__name__)

    def __call__(self, *args: Any) -> Any:
        """Run the body on the operands, with the last arguments for what it captures."""
        if not self._captured:
            return self._body(*args)
        count = len(args) - len(self._captured)
        given = {id(old): new for old, new in zip(self._captured, args[count:], strict=True)}

        enclosing = looking.find

        def find(tensor: Tensor) -> Tensor:
            if id(tensor) not in given and enclosing is not None:
                tensor = enclosing(tensor)
            replaced: Tensor = given.get(id(tensor), tensor)
            return replaced

        with StandIns(find), looked_at(find):
            output = self._body(*args[:count])
        # A body may return what it captures without calling a function on it.
        return tree_map_only(Tensor, find, output)


def name_of(wanted: Any, body: Callable[..., Any]) -> str:
    """Return by which variable a body captures something; "" if it cannot be told.

    Args:
        wanted: A tensor or number, or the node of autograd that made a tensor.
        body: The body.
    """
    for name, value in _variables(body, set()):
        if value is wanted or (isinstance(value, Tensor) and value.grad_fn is wanted):
            return name
    return ""


def _variables(value: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield what a callable has at hand besides its arguments, with the names it is known by."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        yield from _named(f"argument {{}} of {_title(value.func)}", enumerate(value.args), seen)
        yield from _named("{}", value.keywords.items(), seen)
        yield from _variables(value.func, seen)
    elif isinstance(value, types.MethodType):
        yield from _variables(value.__self__, seen)
        yield from _variables(value.__func__, seen)
    elif isinstance(value, torch.nn.Module):
        yield from value.named_parameters()
        yield from value.named_buffers()
        yield from _named("self.{}", vars(value).items(), seen)
    elif isinstance(value, types.FunctionType):
        closure = inspect.getclosurevars(value)
        named: Mapping[str, Any] = {**closure.nonlocals, **closure.globals}
        yield from _named("{}", named.items(), seen)
    elif not isinstance(value, type) and callable(value) and hasattr(value, "__dict__"):
        yield from _named("self.{}", vars(value).items(), seen)


def _named(pattern: str, items: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    for name, value in items:
        title = pattern.format(name)
        yield title, value
        if isinstance(value, (list, tuple)):
            yield from ((f"{title}[{index}]", item) for index, item in enumerate(value))
        elif isinstance(value, dict):
            yield from ((f"{title}[{key!r}]", item) for key, item in value.items())
        elif callable(value):
            yield from _variables(value, seen)
        elif hasattr(value, "__dict__"):
            yield from ((f"{title}.{key}", item) for key, item in vars(value).items())


def _title(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
