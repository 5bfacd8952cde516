"""Pipelines as text: `decompose{table=core-aten},repeat{most=5}(cse,dce),!fold-scale`.

::

    pipeline = [item {"," item}]
    item     = ["!"] NAME ["{" [option {"," option}] "}"] ["(" pipeline ")"]
    option   = NAME "=" value
    value    = scalar | "[" [scalar {"," scalar}] "]"
    scalar   = "true" | "false" | "none" | NUMBER | WORD | STRING

An item with parentheses is a group of passes, one without is a pass; "!" switches it off. A WORD
starts with a letter and is text; a STRING is any text, written as in JSON. White space between
these parts means nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, NoReturn, TypeAlias, TypeVar

from hopyard.errors import PipelineSyntaxError

Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = Scalar | tuple[Scalar, ...]
"""What an option can be given as text."""

_DEEPEST: Final = 50


class Item(NamedTuple):
    """A pass or a group as it is written.

    Attributes:
        name: Of the pass, or what the group does.
        options: Values by name.
        body: The items of a group; None for a pass.
        enabled: Whether it takes part.
    """

    name: str
    options: Mapping[str, Value]
    body: tuple[Item, ...] | None = None
    enabled: bool = True


T = TypeVar("T")

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/+-]*")
_TOKEN = re.compile(r"[A-Za-z0-9_.:/+-]+")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.?[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf|nan")
# Python refuses to read or write integers that are not much longer.
_MOST_DIGITS = 4000
_GREATEST = 10 ** (_MOST_DIGITS - 1)

_CONSTANTS: Final[Mapping[str, Scalar]] = {"true": True, "false": False, "none": None}
_ITEM = "the name of a pass"
_SCALAR = 'a word, a number, "text", true, false or none'


def parse(text: str) -> tuple[Item, ...]:
    """Read pipeline text; empty text is a pipeline without passes.

    Raises:
        PipelineSyntaxError: The text does not parse.
    """
    return _Reader(text).whole()


def write_item(
    name: str, options: Mapping[str, Value], body: str | None = None, *, enabled: bool = True
) -> str:
    """Return the text of one item, options sorted by name; equal items have equal text.

    Args:
        name: The name of the pass or group.
        options: Its options.
        body: The text of the passes in a group; None for a pass.
        enabled: Whether it takes part.
    """
    text = name if enabled else f"!{name}"
    if options:
        written = [f"{option}={write_value(options[option])}" for option in sorted(options)]
        text = f"{text}{{{','.join(written)}}}"
    return text if body is None else f"{text}({body})"


def write_value(value: Value) -> str:
    """Return the text of an option's value."""
    if isinstance(value, tuple):
        return f"[{','.join(map(write_value, value))}]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = _WORD.fullmatch(value) and isinstance(_plain(value), str)
        return value if plain else json.dumps(value, ensure_ascii=False)
    return repr(value)


def is_name(text: str) -> bool:
    """Say whether `text` can stand for a pass or an option."""
    return _NAME.fullmatch(text) is not None


def freeze(value: object) -> Value:
    """Return `value` as text would give it: a tuple for a list, plain types for subclasses.

    Raises:
        TypeError: Text cannot give such a value.
    """
    if isinstance(value, (list, tuple)):
        return tuple(map(_freeze_scalar, value))
    return _freeze_scalar(value)


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def whole(self) -> tuple[Item, ...]:
        self._skip_space()
        items = self._pipeline(0)
        if self._position < len(self._text):
            self._fail("',' or the end" if items else _ITEM)
        return items

    def _pipeline(self, depth: int) -> tuple[Item, ...]:
        if self._position == len(self._text) or self._text.startswith(")", self._position):
            return ()
        items = [self._item(depth)]
        while self._accept(","):
            items.append(self._item(depth))
        return tuple(items)

    def _item(self, depth: int) -> Item:
        enabled = not self._accept("!")
        name = self._name(_ITEM)
        options: dict[str, Value] = {}
        if self._accept("{"):
            for _ in self._items("}", lambda: self._option(options)):
                pass
        if not self._accept("("):
            return Item(name, options, None, enabled)
        if depth == _DEEPEST:
            self._fail(f"at most {_DEEPEST} groups in one another")
        body = self._pipeline(depth + 1)
        if not self._accept(")"):
            self._fail("',' or ')'")
        return Item(name, options, body, enabled)

    def _option(self, options: dict[str, Value]) -> None:
        start = self._position
        name = self._name("the name of an option")
        if name in options:
            self._position = start
            self._fail(f"an option other than {name!r}, which has a value already")
        if not self._accept("="):
            self._fail(f"'=' and a value for {name!r}")
        options[name] = self._value()

    def _value(self) -> Value:
        if self._accept("["):
            return tuple(self._items("]", lambda: self._scalar(_SCALAR)))
        return self._scalar(f"{_SCALAR}, or a [list] of them")

    def _items(self, end: str, read: Callable[[], T]) -> Iterator[T]:
        if self._accept(end):
            return
        yield read()
        while not self._accept(end):
            if not self._accept(","):
                self._fail(f"',' or {end!r}")
            yield read()

    def _scalar(self, expected: str) -> Scalar:
        if self._text.startswith('"', self._position):
            return self._string()
        start = self._position
        token = self._match(_TOKEN, expected)
        if _INTEGER.fullmatch(token) and len(token) > _MOST_DIGITS:
            self._position = start
            self._fail(f"a number of at most {_MOST_DIGITS} digits")
        value = _plain(token)
        if isinstance(value, str) and not _WORD.fullmatch(value):
            self._position = start
            self._fail(f"{expected} (text that does not start with a letter needs quotes)")
        return value

    def _string(self) -> str:
        try:
            value, self._position = json.JSONDecoder().raw_decode(self._text, self._position)
        except json.JSONDecodeError as error:
            raise PipelineSyntaxError(
                self._text, error.pos, "text in quotes, as JSON writes it"
            ) from error
        self._skip_space()
        assert isinstance(value, str), "JSON that starts with a quote is a string"
        return value

    def _name(self, expected: str) -> str:
        return self._match(_NAME, expected)

    def _match(self, pattern: re.Pattern[str], expected: str) -> str:
        found = pattern.match(self._text, self._position)
        if found is None:
            self._fail(expected)
        self._position = found.end()
        self._skip_space()
        return found[0]

    def _accept(self, symbol: str) -> bool:
        if not self._text.startswith(symbol, self._position):
            return False
        self._position += len(symbol)
        self._skip_space()
        return True

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._position)
        assert found is not None, "the pattern matches nothing too"
        self._position = found.end()

    def _fail(self, expected: str) -> NoReturn:
        raise PipelineSyntaxError(self._text, self._position, expected)


def _plain(token: str) -> Scalar:
    """Return what an unquoted token stands for: a constant, a number or else text."""
    if token in _CONSTANTS:
        return _CONSTANTS[token]
    if _INTEGER.fullmatch(token):
        return int(token)
    if _FLOAT.fullmatch(token):
        return float(token)
    return token


def _freeze_scalar(value: object) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < _GREATEST:
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(
        f"it is a {type(value).__name__}, and text gives only true, false, none, "
        f"numbers of up to {_MOST_DIGITS} digits, text, and lists of these"
    )
