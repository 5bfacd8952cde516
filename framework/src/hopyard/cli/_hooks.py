"""`hopyard hooks`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from hopyard_hookspecs import PROJECT, is_provisional, specifications

from ._answer import Answer, table

SUMMARY = "List the hooks that a plugin may implement."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: there are none."""


def answer(_: argparse.Namespace) -> Answer:
    """List every hook in the order in which the documentation does."""
    hooks = list(_specified())
    data = [
        {
            "name": hook.__name__,
            "arguments": list(inspect.signature(hook).parameters),
            "provisional": is_provisional(hook),
            "summary": _summary(hook),
        }
        for hook in hooks
    ]
    rows = [
        (hook.__name__, "provisional" if is_provisional(hook) else "stable", _summary(hook))
        for hook in hooks
    ]
    return Answer(table(("HOOK", "SHAPE", "SUMMARY"), rows), {"hooks": data})


def _summary(hook: Callable[..., Any]) -> str:
    return (inspect.getdoc(hook) or "").partition("\n")[0]


def _specified() -> Iterator[Callable[..., Any]]:
    for module in specifications():
        for value in vars(module).values():
            if hasattr(value, f"{PROJECT}_spec"):
                yield value
