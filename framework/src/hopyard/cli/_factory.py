"""The factory that a command line names: found, called, and its result checked."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, NoReturn

from ..errors import HopyardError, UnknownNameError, UsageError, closest_match

EXPECTED: Final = (
    "return (module_or_function, args) or (module_or_function, args, kwargs), "
    "with args a tuple and kwargs a dict"
)

_HERE = str(Path(__file__).parent)


class FactoryError(HopyardError):
    """The user's own code raised, when its module was imported or when the factory was called.

    Attributes:
        traceback: What the user is shown: the traceback from the first line of their code on.
    """

    def __init__(self, message: str, cause: BaseException) -> None:
        super().__init__(f"{message} raised {_one_line(cause)}")
        cause.with_traceback(_without_ours(cause.__traceback__))
        self.traceback = "".join(traceback.format_exception(cause))


@dataclass(frozen=True, slots=True)
class FactoryName:
    """A factory as the command line names it.

    Attributes:
        module: The dotted name of a module.
        attribute: The name of the factory in it, dotted if it is nested.
    """

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"

    @classmethod
    def parse(cls, text: str) -> FactoryName:
        """Read `MODULE:FACTORY`.

        Raises:
            UsageError: The text has another form; the message says what was probably meant.
        """
        module, colon, attribute = text.partition(":")
        dotted = module.replace(os.sep, ".").strip(".")
        dotted = (
            dotted.removesuffix(".py") if os.sep in module or module.endswith(".py") else dotted
        )
        if not colon:
            dotted, _, attribute = dotted.rpartition(".")
        name = cls(dotted, attribute)
        fits = all(part.isidentifier() for part in f"{dotted}.{attribute}".split("."))
        if fits and str(name) == text:
            return name
        example = name if fits else "package.module:factory"
        raise UsageError(f"{text!r} names no factory", hint=f"write {example}")


@dataclass(frozen=True, slots=True)
class Target:
    """What a factory returned.

    Attributes:
        function: The module or function to capture.
        args: Positional example inputs.
        kwargs: Keyword example inputs.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@contextmanager
def importing_from_working_directory() -> Iterator[None]:
    """Let modules of the working directory be imported, as `python -m` does."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def find_factory(name: FactoryName) -> Callable[[], object]:
    """Import a module and return the factory in it.

    Raises:
        UnknownNameError: There is no such module, or it has no such factory.
        UsageError: What is there cannot be called without arguments.
        FactoryError: The module raised while it was imported.
    """
    found: Any = _import(name.module)
    for attribute in name.attribute.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            _refuse_attribute(found, attribute, name)
    if not callable(found):
        raise UsageError(
            f"{name} is {_article(found)}, which cannot be called",
            hint=f"write a function without arguments; {EXPECTED}",
        )
    try:
        inspect.signature(found).bind()
    except TypeError as mismatch:
        raise UsageError(
            f"{name} cannot be called without arguments: {mismatch}",
            hint=f"write a function without arguments; {EXPECTED}",
        ) from None
    except ValueError:
        pass  # A builtin that does not tell its arguments: calling it will show.
    factory: Callable[[], object] = found
    return factory


def call_factory(factory: Callable[[], object], name: FactoryName) -> Target:
    """Call a factory and check what it returns.

    Raises:
        FactoryError: It raised.
        UsageError: It returned something else than a target and its example inputs.
    """
    with _attributed(f"factory {name}"):
        returned = factory()
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        size = f" of {len(returned)}" if isinstance(returned, tuple) else ""
        _refuse_result(name, f"returned {_article(returned)}{size}")
    function, args, kwargs = returned if len(returned) == 3 else (*returned, {})
    if not callable(function):
        _refuse_result(name, f"returned {_article(function)} to capture, which cannot be called")
    if not isinstance(args, tuple):
        _refuse_result(name, f"returned {_article(args)} as args")
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        _refuse_result(name, f"returned {_article(kwargs)} as kwargs")
    return Target(function, args, dict(kwargs))


def call_factories(
    factory: Callable[[], object],
    name: FactoryName,
    make_inputs: Callable[[], object],
    inputs: FactoryName,
) -> Target:
    """Call a factory of what to capture and one of example inputs, and check what they return.

    Raises:
        FactoryError: One of them raised.
        UsageError: The first returned nothing that can be called, or the second no inputs.
    """
    with _attributed(f"factory {name}"):
        function = factory()
    if not callable(function):
        raise UsageError(
            f"factory {name} returned {_article(function)} to capture, which cannot be called",
            hint="with --args it returns a module or function alone",
        )
    with _attributed(f"factory {inputs}"):
        returned = make_inputs()
    args: object = returned
    kwargs: dict[str, Any] = {}
    if isinstance(returned, tuple) and [type(each) for each in returned] == [tuple, dict]:
        args, kwargs = returned
    if not isinstance(args, tuple) or not all(isinstance(key, str) for key in kwargs):
        raise UsageError(
            f"factory {inputs} returned {_article(returned)}",
            hint="return args, a tuple, or (args, kwargs) with kwargs a dict",
        )
    return Target(function, args, kwargs)


def _import(dotted: str) -> ModuleType:
    """Import a module parent by parent, which tells one that is missing from one that fails."""
    parts = dotted.split(".")
    module: ModuleType | None = None
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        if not _exists(name, module):
            _refuse_module(name, module)
        with _attributed(f"importing {name!r}"):
            module = importlib.import_module(name)
    assert module is not None, "a dotted name has at least one part"
    return module


def _exists(name: str, parent: ModuleType | None) -> bool:
    if name in sys.modules:
        return True
    if parent is not None and not hasattr(parent, "__path__"):
        return False
    return importlib.util.find_spec(name) is not None


def _refuse_module(name: str, parent: ModuleType | None) -> NoReturn:
    if parent is not None:
        folders = list(getattr(parent, "__path__", ()))
        valid = {found.name for found in pkgutil.iter_modules(folders, f"{parent.__name__}.")}
        raise UnknownNameError("module", name, valid)
    valid = {found.name for found in pkgutil.iter_modules([os.getcwd()])}
    if closest_match(name, valid) is None:
        closest = closest_match(name, {found.name for found in pkgutil.iter_modules()})
        valid |= {closest} if closest else set()
    raise UnknownNameError("module", name, valid)


def _refuse_attribute(owner: object, attribute: str, name: FactoryName) -> NoReturn:
    valid = {
        key
        for key, value in getattr(owner, "__dict__", {}).items()
        if callable(value)
        and not key.startswith("_")
        and getattr(value, "__module__", name.module) == name.module
    }
    raise UnknownNameError(f"factory in {name.module!r}", attribute, valid)


def _refuse_result(name: FactoryName, what: str) -> NoReturn:
    raise UsageError(f"factory {name} {what}", hint=EXPECTED)


@contextmanager
def _attributed(doing: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:
        raise FactoryError(doing, error) from error


def _without_ours(frames: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the lines of this module and of the import system at its start."""
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if not file.startswith((_HERE, "<frozen importlib", importlib.__file__)):
            break
        frames = frames.tb_next
    return frames


def _one_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _article(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
