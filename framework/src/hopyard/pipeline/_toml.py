"""Pipelines as TOML.

::

    [[step]]
    pass = "decompose"
    options = { table = "core-aten" }

    [[step]]
    group = "repeat"
    options = { most = 5 }

    [[step.step]]
    pass = "cse"
    enabled = false

TOML has no word for none; `{ none = true }` stands for it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hopyard.errors import UsageError

from ._items import Item, Step, group
from ._text import Value

_STEP = "step"
_NONE = {"none": True}
_SURROGATE = re.compile("[\ud800-\udfff]")


def write_toml(items: Iterable[Item]) -> str:
    """Return the TOML that :func:`read_toml` reads as `items`; equal items have equal TOML.

    Raises:
        UsageError: A text has half of a surrogate pair.
    """
    return "\n\n".join("\n".join(lines) for lines in _tables(items, _STEP)) + "\n"


def read_toml(text: str) -> tuple[Item, ...]:
    """Read a pipeline.

    Raises:
        UsageError: The text is no TOML, or something else than a pipeline.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as cause:
        raise UsageError(f"cannot read the pipeline: {cause}", stage="pipeline") from cause
    return _items(data, "the file", {_STEP})


def _tables(items: Iterable[Item], path: str) -> Iterator[list[str]]:
    for item in items:
        is_pass = isinstance(item, Step)
        name = item.name if isinstance(item, Step) else item.NAME
        lines = [f"[[{path}]]", f"{'pass' if is_pass else 'group'} = {_written(name)}"]
        if item.options:
            written = (f"{key} = {_written(item.options[key])}" for key in sorted(item.options))
            lines.append(f"options = {{ {', '.join(written)} }}")
        if not item.enabled:
            lines.append("enabled = false")
        yield lines
        if not isinstance(item, Step):
            yield from _tables(item.steps, f"{path}.{_STEP}")


def _written(value: Value) -> str:
    if value is None:
        return "{ none = true }"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise UsageError(f"TOML cannot write the text {value!r}", stage="pipeline")
        # JSON leaves this control character as it is, and TOML does not allow it.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _items(table: Mapping[str, Any], where: str, known: set[str]) -> tuple[Item, ...]:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise _misshapen(where, f"has {unknown[0]!r}, which means nothing there")
    steps = table.get(_STEP, [])
    if not isinstance(steps, list):
        raise _misshapen(where, "has a step that is no table")
    return tuple(_item(step, f"step {number} of {where}") for number, step in enumerate(steps, 1))


def _item(table: object, where: str) -> Item:
    if not isinstance(table, dict):
        raise _misshapen(where, "is no table")
    names = [key for key in ("pass", "group") if key in table]
    if len(names) != 1 or not isinstance(table[names[0]], str):
        raise _misshapen(where, "says neither which pass nor which group it is")
    options, enabled = table.get("options", {}), table.get("enabled", True)
    if not isinstance(options, dict) or not isinstance(enabled, bool):
        raise _misshapen(where, "has options that are no table, or is neither enabled nor disabled")
    values = {key: _value(value, where) for key, value in options.items()}
    known = {names[0], "options", "enabled"}
    if names == ["pass"]:
        _items(table, where, known)
        return Step(table["pass"], values, enabled)
    steps = _items(table, where, known | {_STEP})
    return group(table["group"], steps, values, enabled=enabled)


def _value(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_value(item, where) for item in value)
    if isinstance(value, dict):
        if value != _NONE:
            raise _misshapen(where, f"has an option that is {value!r}")
        return None
    return value


def _misshapen(where: str, what: str) -> UsageError:
    return UsageError(
        f"cannot read the pipeline: {where} {what}",
        hint='write [[step]] and pass = "name" for each pass',
        stage="pipeline",
    )
