"""A place where tests install plugins by writing the files that an installer would write."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

HEADER = "from hopyard_hookspecs import Mode, Pass, hookimpl\n"


@dataclass(frozen=True)
class Site:
    """A folder on the import path, the only one with installed distributions."""

    folder: Path

    def install(
        self,
        distribution: str,
        version: str = "1.0",
        *,
        plugins: Mapping[str, str] | str = "",
        requires: Sequence[str] = (),
        metadata: bool = True,
        **modules: str,
    ) -> None:
        """Write a distribution.

        Args:
            distribution: Its name.
            version: Its version.
            plugins: Entry points by slug, or the whole text of `entry_points.txt`.
            requires: Lines for `Requires-Dist`.
            metadata: Whether to write `METADATA` at all.
            modules: Source text by module name.
        """
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        if metadata:
            lines = ["Metadata-Version: 2.3", f"Name: {distribution}", f"Version: {version}"]
            lines += [f"Requires-Dist: {line}" for line in requires]
            (info / "METADATA").write_text("\n".join(lines) + "\n")
        if not isinstance(plugins, str):
            entries = [f"{slug} = {value}" for slug, value in plugins.items()]
            plugins = "\n".join(["[hopyard.plugins]", *entries, ""])
        if plugins:
            (info / "entry_points.txt").write_text(plugins)
        for name, source in modules.items():
            (self.folder / f"{name}.py").write_text(HEADER + dedent(source))
        importlib.invalidate_caches()

    def plugin(self, slug: str, source: str = "", *, version: str = "1.0") -> None:
        """Write the distribution `dist-<slug>` with one module that is the plugin."""
        module = f"site_{slug.replace('-', '_')}"
        self.install(f"dist-{slug}", version, plugins={slug: module}, **{module: source})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Give an environment in which hopyard-hookspecs 0.1.0 is all that is installed."""
    for variable in ("HOPYARD_PLUGINS_ALLOW", "HOPYARD_PLUGINS_DENY"):
        monkeypatch.delenv(variable, raising=False)
    without = [entry for entry in sys.path if not any(Path(entry or ".").glob("*.dist-info"))]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *without])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    site = Site(tmp_path)
    site.install("hopyard-hookspecs", "0.1.0")
    yield site
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
