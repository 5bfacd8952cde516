"""A plugin that the command line makes can be built, installed and tested as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from wheels import build, unpack

from hopyard.cli import main
from hopyard.errors import UsageError
from hopyard.scaffold import KINDS, new_plugin


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_passes_its_own_tests(kind: str, tmp_path: Path) -> None:
    assert main(["new-plugin", "my-op", "--kind", kind, "--folder", str(tmp_path)]) == 0
    folder = tmp_path / "hopyard-my-op"
    (wheel,) = build([folder], tmp_path / "wheels").values()
    site = tmp_path / "site"
    unpack(wheel, site)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize("slug", ["My-Op", "my_op", "1st", "my-", "", "../escape"])
def test_what_names_no_plugin_is_refused(slug: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        new_plugin(slug, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    kept = new_plugin("my-op", tmp_path) / "README.md"
    kept.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        new_plugin("my-op", tmp_path)
    assert kept.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [kept.parent]


def test_an_installed_plugin_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hopyard-strict-mode"):
        new_plugin("strict-mode", tmp_path)


def test_a_missing_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-plugin", "my-op", "--folder", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
