"""Standard error: warnings, errors and progress. The one module that knows of rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

PROGRAM: Final = "hopyard"

Progress: TypeAlias = Callable[[str], None]
"""Called with what is being done now."""


def warn(text: object) -> None:
    """Print a warning."""
    print(f"{PROGRAM}: warning: {text}", file=sys.stderr)


def complain(text: object) -> None:
    """Print an error."""
    print(f"{PROGRAM}: error: {text}", file=sys.stderr)


@contextmanager
def progress() -> Iterator[Progress]:
    """Show on a terminal what is being done: as a spinner if rich is installed, else as lines.

    Where standard error is no terminal, nothing is shown.
    """
    if not sys.stderr.isatty():
        yield lambda doing: None
        return
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        yield lambda doing: print(f"{doing} ...", file=sys.stderr)
        return
    with Console(stderr=True).status("starting") as status:
        yield lambda doing: status.update(Text(doing))
