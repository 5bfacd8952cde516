"""The package as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hopyard.plugins
from hopyard.plugins import CATALOGUE, distribution_for


def test_importing_and_using_the_package_leaves_torch_unloaded() -> None:
    program = (
        "import sys; from hopyard.plugins import PluginManager, find; find(); "
        "PluginManager(discover=False); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_public_names() -> None:
    public = {name for name in vars(hopyard.plugins) if not name.startswith("_")}
    assert public - {"annotations"} == {
        "ALLOW_VARIABLE",
        "CATALOGUE",
        "Candidate",
        "DENY_VARIABLE",
        "GivenPlugin",
        "KERNEL",
        "KERNEL_MODES",
        "PluginInfo",
        "PluginManager",
        "PluginStatus",
        "Registered",
        "UNPACKAGED",
        "distribution_for",
        "find",
        "kernel",
        "resolve",
    }


def test_the_catalogue_is_read_only() -> None:
    with pytest.raises(TypeError):
        CATALOGUE["pass", "x"] = "y"  # type: ignore[index]


def test_every_entry_of_the_catalogue_is_found() -> None:
    for (kind, name), distribution in CATALOGUE.items():
        assert distribution_for(kind, name) == distribution


def test_nothing_provides_a_name_nobody_thought_of() -> None:
    assert distribution_for("pass", "no-such-pass-anywhere") == ""
