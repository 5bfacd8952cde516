"""Where a program is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ..errors import UsageError

SUFFIX: Final = ".pt2"


def destination(text: str) -> Path:
    """Return the absolute path of a file that could be written now.

    Raises:
        UsageError: It could not; found out before any work is done for it.
    """
    path = Path(text).absolute()
    folder = path.parent
    if path.suffix != SUFFIX:
        names_file = Path(text).name not in ("", "..")
        raise UsageError(
            f"{text!r} does not end in {SUFFIX}",
            hint=f"write --out {Path(text).with_suffix(SUFFIX)}" if names_file else "name a file",
            stage="--out",
        )
    if not folder.is_dir():
        raise UsageError(f"there is no folder {str(folder)!r}", hint="make it first", stage="--out")
    if path.is_dir():
        raise UsageError(f"{text!r} is a folder", hint="name a file", stage="--out")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"the folder {str(folder)!r} is not writable", hint="choose another", stage="--out"
        )
    return path
