"""Between the plain values of a file and the classes of torch's schema.

torch's own way to read looks at the classes' annotations anew for every value, which takes most of
the time of loading, and trusts the values to be of the annotated types.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

from .._torch.archives import SCHEMA_NAMES, Union

T = TypeVar("T")

_Reader = Callable[[Any], Any]


_EXPRESSION = "expr_str"


def plain(value: Any) -> Any:
    """Return an instance of the schema's classes as dictionaries, lists and numbers for JSON."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is list:
        return [plain(item) for item in value]
    if kind is dict:
        return {key: plain(item) for key, item in value.items()}
    if kind is float:
        return value if math.isfinite(value) else _named_float(value)
    if isinstance(value, Union):
        # Reading a field as an attribute asks first which one is set.
        fields = object.__getattribute__(value, "__dict__")
        name = str(fields["_type"])
        return {name: plain(fields[name])}
    if dataclasses.is_dataclass(kind):
        return {name: plain(item) for name, item in value.__dict__.items()}
    return value


def _named_float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


class SchemaReader:
    """Makes instances of the schema's classes; how to make one of a class is found out once.

    Args:
        expression: Reads the text of a symbolic expression. torch takes what it returns for the
            text, and reads it no more.
    """

    def __init__(self, expression: Callable[[str], Any]) -> None:
        self._readers: dict[Any, _Reader] = {}
        self._expression = functools.cache(expression)

    def read(self, kind: type[T], value: Any) -> T:
        """Return `value`, of dictionaries and lists, as an instance of `kind`.

        Raises:
            ValueError: It is none, or says more than this version of the schema has fields for.
        """
        made: T = self._reader(kind)(value)
        return made

    def _reader(self, kind: Any) -> _Reader:
        found = self._readers.get(kind)
        if found is None:
            found = self._readers[kind] = self._made(kind)
        return found

    def _made(self, kind: Any) -> _Reader:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            (present,) = [each for each in arguments if each is not types.NoneType]
            return self._optional(present)
        if origin is list:
            return self._list(arguments[0])
        if origin is dict:
            return self._dictionary(arguments[1])
        if issubclass(kind, Union):
            return self._union(kind)
        if dataclasses.is_dataclass(kind):
            return self._structure(kind)
        return _plain(kind)

    def _optional(self, kind: Any) -> _Reader:
        reader = self._reader(kind)
        return lambda value: None if value is None else reader(value)

    def _list(self, kind: Any) -> _Reader:
        reader = self._reader(kind)
        return lambda value: [reader(item) for item in _expect(value, list)]

    def _dictionary(self, kind: Any) -> _Reader:
        reader = self._reader(kind)
        return lambda value: {key: reader(item) for key, item in _expect(value, dict).items()}

    def _union(self, kind: Any) -> _Reader:
        fields = self._fields(kind)

        def read(value: Any) -> Any:
            if len(_expect(value, dict)) != 1:
                raise ValueError(f"{len(value)} values instead of one for a {kind.__name__}")
            ((name, item),) = value.items()
            return kind.create(**{name: fields(name)(item)})

        return read

    def _structure(self, kind: Any) -> _Reader:
        fields = self._fields(kind)

        def read(value: Any) -> Any:
            return kind(**{name: fields(name)(item) for name, item in _expect(value, dict).items()})

        return read

    def _fields(self, kind: type) -> Callable[[str], _Reader]:
        """Return what gives the reader of a field; classes contain each other."""
        hints = typing.get_type_hints(kind, globalns=SCHEMA_NAMES)
        readers: dict[str, _Reader] = {}

        def field(name: str) -> _Reader:
            reader = readers.get(name)
            if reader is None:
                if name not in hints:
                    raise ValueError(f"{kind.__name__} has no field {name!r} in this version")
                reader = self._expression if name == _EXPRESSION else self._reader(hints[name])
                readers[name] = reader
            return reader

        return field


def _plain(kind: Any) -> _Reader:
    if kind is float:
        return _float
    expected = int if issubclass(kind, IntEnum) else kind

    def read(value: Any) -> Any:
        return _expect(value, expected)

    return read


def _float(value: Any) -> float:
    # Infinities and what is no number are written as text.
    if type(value) not in (int, float) and value not in ("Infinity", "-Infinity", "NaN"):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r:.80} where a {kind.__name__} is expected")
    return value
