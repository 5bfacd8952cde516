"""What commands answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._table import table as table


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
