"""Which of Hopyard's own distributions provides which name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CATALOGUE: Final[Mapping[tuple[str, str], str]] = MappingProxyType({})
"""Distributions by kind and name, for example `("pass", "fold-scale")`.

A plugin that is not installed cannot say what it would register, so this is the one place that
names plugins; a contract test compares it with what they do register.
"""


def distribution_for(kind: str, name: str) -> str:
    """Return the distribution that provides a name nobody registered, or "" if none is known."""
    return CATALOGUE.get((kind, name), "")
