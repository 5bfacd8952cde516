"""Temporary folders of saves whose process was killed: found and removed by the next save.

A process that is killed removes nothing. Its lock is released by the system, whatever ended it, so
a folder that nobody has locked is nobody's; one that was just made may not be locked yet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

if sys.platform != "win32":  # where such folders stay
    import fcntl

PREFIX: Final = ".hopyard-"
"""How the names of temporary folders begin."""

_SETTLED: Final = 60.0
"""Seconds after which a folder that is in use is locked for certain."""


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other saves from removing `folder`."""
    descriptor = _locked(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders that killed saves left behind in `parent`."""
    with contextlib.suppress(OSError):
        for folder in parent.glob(f"{PREFIX}*"):
            if not folder.is_symlink() and time.time() - folder.stat().st_mtime > _SETTLED:
                _remove(folder)


def _remove(folder: Path) -> None:
    descriptor = _locked(folder)
    if descriptor is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that locks a folder until it is closed; None if that cannot be."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
