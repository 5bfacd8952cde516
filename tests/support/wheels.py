"""Built distributions, and Pythons that see nothing but what a distribution declares."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PathDistribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def build(projects: Iterable[Path], into: Path) -> dict[str, Path]:
    """Build a wheel of each project with what is installed here; return them by distribution."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(into)]
    folders = [str(project) for project in projects]
    subprocess.run([*command, *options, *folders], check=True, capture_output=True, text=True)
    return {
        canonicalize_name(wheel.name.split("-")[0]): wheel for wheel in sorted(into.glob("*.whl"))
    }


def unpack(wheel: Path, into: Path) -> PathDistribution:
    """Install a wheel of pure Python by unpacking it, and return its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    name, version = wheel.name.split("-")[:2]
    return PathDistribution(into / f"{name}-{version}.dist-info")


@dataclass(frozen=True)
class Isolated:
    """A Python whose path holds the standard library and one folder."""

    site: Path

    def run(self, program: str) -> subprocess.CompletedProcess[str]:
        """Run a program without the site packages of this environment."""
        return subprocess.run(
            [sys.executable, "-S", "-c", program],
            env={"PYTHONPATH": str(self.site), "HOME": str(self.site)},
            cwd=self.site,
            capture_output=True,
            text=True,
            check=False,
        )


def install_alone(wheel: Path, wheels: Mapping[str, Path], into: Path) -> Isolated:
    """Make a Python that sees a wheel and what its metadata declares, as deep as that goes.

    Args:
        wheel: The wheel.
        wheels: Wheels by distribution; they are preferred to what is installed.
        into: An empty folder. Whatever is no wheel is linked there from this environment.
    """
    pending = list(_needs(unpack(wheel, into), extras=set()))
    seen = {canonicalize_name(wheel.name.split("-")[0])}
    while pending:
        need = pending.pop()
        name = canonicalize_name(need.name)
        if name in seen:
            continue
        seen.add(name)
        if name in wheels:
            found: Distribution = unpack(wheels[name], into)
        else:
            found = distribution(name)
            _link(found, into)
        assert need.specifier.contains(found.version, prereleases=True), f"{need}: {found.version}"
        pending.extend(_needs(found, need.extras))
    return Isolated(into)


def _needs(found: Distribution, extras: set[str]) -> Iterator[Requirement]:
    for need in map(Requirement, found.requires or []):
        chosen = extras or {""}
        if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in chosen):
            yield need


def _link(found: Distribution, into: Path) -> None:
    """Link the files of an installed distribution, whole folders where nobody else has files."""
    parts = set()
    for file in map(str, found.files or []):
        top = file.partition("/")[0]
        if top not in ("..", "__pycache__") and not file.endswith(".pth"):
            parts.add(file if top in _shared_folders() else top)
    for part in sorted(parts):
        link = into / part
        if link.exists():  # another install into the same folder brought it
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(str(found.locate_file(part))).resolve())


@cache
def _shared_folders() -> set[str]:
    owners: dict[str, set[str]] = {}
    for found in distributions():
        name = found.metadata["Name"]
        for top in {str(file).partition("/")[0] for file in found.files or []}:
            owners.setdefault(top, set()).add(name)
    return {top for top, names in owners.items() if len(names) > 1}
