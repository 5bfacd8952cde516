"""Installs the distributions of `tests/fixtures/dists` where only chosen programs see them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "fixtures" / "dists"
NEEDED = ("importlib-metadata", "packaging", "pluggy")


class InstalledDists:
    """Runs programs where Hopyard and a choice of fixture distributions are all that is installed.

    Each distribution is built and installed once, when first asked for.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, *names: str) -> str:
        """Return a `PYTHONPATH` with Hopyard and the named fixture distributions."""
        kernel = [self._installed(ROOT / "hookspecs"), self._installed(ROOT / "framework")]
        fixtures = [self._installed(SOURCES / name) for name in names]
        return os.pathsep.join(map(str, [*fixtures, *kernel, self._needed()]))

    def run(self, program: str, *names: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program with the named fixture distributions; it cannot see torch."""
        return subprocess.run(
            [sys.executable, "-S", "-W", "error", "-c", program],
            env={"PYTHONPATH": self.path(*names), **variables},
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _installed(self, project: Path) -> Path:
        target = self._folder / project.name
        if target.exists():
            return target
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
        done = subprocess.run(
            [*command, *options, str(project)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return target

    def _needed(self) -> Path:
        """Return a folder with links to what loading plugins needs from this environment."""
        target = self._folder / "needed"
        if target.exists():
            return target
        target.mkdir()
        pending, seen = list(NEEDED), set[str]()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            found = distribution(name)
            for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
                (target / top).symlink_to(Path(str(found.locate_file(top))))
            needs = map(Requirement, found.requires or [])
            pending += [need.name for need in needs if not need.marker or need.marker.evaluate()]
        return target
