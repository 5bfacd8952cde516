"""The decomposition tables of a session, merged for a capture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hopyard_hookspecs import Decompositions, Provider

from .errors import DuplicateNameError, PluginError
from .plugins import Registered, resolve


def merged(entries: Iterable[Registered[Decompositions]]) -> dict[Any, Callable[..., Any]]:
    """Return the tables that plugins registered as one.

    Raises:
        DuplicateNameError: Two of them decompose one operator, in different ways.
        PluginError: A plugin's table cannot be made.
    """
    functions: dict[Any, Callable[..., Any]] = {}
    claimants: dict[Any, Provider] = {}
    for entry in sorted(entries, key=lambda entry: entry.value.name):
        for operator, function in _table(entry).items():
            if functions.setdefault(operator, function) is not function:
                raise DuplicateNameError(
                    "decomposition", str(operator), [claimants[operator], entry.provider]
                )
            claimants[operator] = entry.provider
    return functions


def _table(entry: Registered[Decompositions]) -> Mapping[Any, Callable[..., Any]]:
    factory: Any = resolve(entry.value.table, entry.provider)
    try:
        table = factory()
        if not isinstance(table, Mapping):
            raise TypeError(f"the table is a {type(table).__name__} instead of a mapping")
    except Exception as error:
        raise PluginError(
            f"the decomposition table raised {type(error).__name__}: {error}",
            hint="report it to the plugin's authors, or disable the plugin",
            plugin=entry.provider,
            stage=entry.value.name,
        ) from error
    return table
