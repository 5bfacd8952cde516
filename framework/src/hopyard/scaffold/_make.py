"""From the files of a kind to a distribution of that kind."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Final

from ..errors import UsageError
from ..plugins import find

KINDS: Final = ("hop",)
"""What a new plugin may offer first."""

_FILES: Final = Path(__file__).parent
_SLUG: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIX: Final = ".template"


def new_plugin(slug: str, folder: Path, kind: str = "hop") -> Path:
    """Write a distribution with a plugin that works, whole or not at all, and return its folder.

    Args:
        slug: Names the plugin: the distribution is `hopyard-<slug>`, the package `hopyard_<slug>`.
        folder: Where the distribution's folder is made.
        kind: What the plugin offers, one of :data:`KINDS`.

    Raises:
        UsageError: The slug is none, or taken; the folder is missing, or has the distribution.
    """
    if not _SLUG.fullmatch(slug):
        raise UsageError(
            f"{slug!r} cannot name a plugin",
            hint="write lower-case words joined by hyphens, for example my-op",
            stage="new-plugin",
        )
    taken = next((each for each in find() if each.provider.plugin == slug), None)
    if taken is not None:
        raise UsageError(
            f"{taken.provider} is installed, and two plugins cannot have one name",
            hint="choose another name",
            stage="new-plugin",
        )
    target = folder / f"hopyard-{slug}"
    if target.exists():
        raise UsageError(f"{target} exists", hint="choose another name", stage="new-plugin")
    if not folder.is_dir():
        raise UsageError(f"there is no folder {str(folder)!r}", stage="new-plugin")
    try:
        with tempfile.TemporaryDirectory(prefix=".hopyard-", dir=folder) as scratch:
            made = Path(scratch) / target.name
            for path, text in _filled(_FILES / kind, slug):
                file = made / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            shutil.move(made, target)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error}", stage="new-plugin") from error
    return target


def _filled(files: Path, slug: str) -> Iterator[tuple[Path, str]]:
    package = f"hopyard_{slug.replace('-', '_')}"
    words = {
        "slug": slug,
        "distribution": f"hopyard-{slug}",
        "package": package,
        "prefix": slug.replace("-", "_"),
    }
    for file in sorted(files.rglob(f"*{_SUFFIX}")):
        path = str(file.relative_to(files)).removesuffix(_SUFFIX).replace("PACKAGE", package)
        yield Path(path), Template(file.read_text(encoding="utf-8")).substitute(words)
