"""What commands answer."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a command, for people and for programs.

    Attributes:
        lines: What people read.
        data: What programs read, as :func:`to_json` writes it.
        code: The exit code.
    """

    lines: Sequence[str]
    data: Mapping[str, Any]
    code: int = 0


def to_json(data: Mapping[str, Any]) -> str:
    """Return `data` as one JSON object; what JSON has no form for becomes text."""
    return json.dumps(_plain(data), indent=2, allow_nan=False, ensure_ascii=False)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()
) -> list[str]:
    """Return lines with aligned columns, those in `right` to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
