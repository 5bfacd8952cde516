"""The projects of this repository, found by walking its folders: a new plugin is seen at once."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """One distribution: a folder with a `pyproject.toml` and a `src/<package>`."""

    folder: Path

    @cached_property
    def pyproject(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))

    @property
    def metadata(self) -> dict[str, Any]:
        return self.pyproject["project"]

    @property
    def name(self) -> str:
        return self.metadata["name"]

    @property
    def package(self) -> str:
        return self.name.replace("-", "_")

    @property
    def slug(self) -> str:
        return self.name.removeprefix("hopyard-")

    @property
    def source(self) -> Path:
        return self.folder / "src" / self.package

    def modules(self) -> Iterator[Path]:
        yield from sorted(self.source.rglob("*.py"))

    def __str__(self) -> str:
        return self.folder.relative_to(ROOT).as_posix()


def found(pattern: str) -> tuple[Project, ...]:
    return tuple(Project(path.parent) for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml")))


HOOKSPECS = Project(ROOT / "hookspecs")
FRAMEWORK = Project(ROOT / "framework")
PLUGINS = found("plugins/*")
EXAMPLES = found("docs/examples/*")
PROJECTS = (HOOKSPECS, FRAMEWORK, *PLUGINS)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
