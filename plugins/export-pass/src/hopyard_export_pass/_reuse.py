"""The setting that lets passes compute every node anew."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_recomputing: ContextVar[bool | None] = ContextVar("hopyard_export_pass_recomputing", default=None)


@contextmanager
def recompute_everything() -> Generator[None, None, None]:
    """Let passes that run meanwhile compute every node anew, whatever its stamp says.

    The graphs are the same, which a suspicion of the contrary can be tested with. The environment
    variable `HOPYARD_RECOMPUTE=1` does it for a whole process.
    """
    token = _recomputing.set(True)
    try:
        yield
    finally:
        _recomputing.reset(token)


def is_reuse_on() -> bool:
    """Say whether nodes that have not changed are copied."""
    chosen = _recomputing.get()
    if chosen is not None:
        return not chosen
    return os.environ.get("HOPYARD_RECOMPUTE", "") in ("", "0")
