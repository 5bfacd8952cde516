"""Whether ExecuTorch is there; it is imported by what needs it, when it needs it."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from typing import Final

from hopyard.errors import UsageError

VERSION = "1.5.1"
"""The version that this plugin is tested with."""

RUNTIME: Final = "executorch_backend"
"""Key of a lowered partition's `meta`: the backend's name in ExecuTorch, if it has another."""

ALIGNMENT: Final = "alignment"
"""Key of a lowered partition's `meta`: the alignment in a file of each blob of named data."""


def is_installed() -> bool:
    """Say whether ExecuTorch can be imported."""
    try:
        return importlib.util.find_spec("executorch.exir") is not None
    except ModuleNotFoundError:
        return False


def executorch_version() -> str:
    """Return the version of ExecuTorch, "" if it is not known."""
    try:
        return metadata.version("executorch")
    except metadata.PackageNotFoundError:
        return ""


def require(what: str) -> None:
    """Refuse to go on without ExecuTorch.

    Raises:
        UsageError: It is not installed; the message says how to install it.
    """
    if not is_installed():
        raise UsageError(
            f"{what} needs ExecuTorch, which is not installed",
            hint=f"install it with 'pip install executorch=={VERSION}'",
            stage="executorch",
        )
