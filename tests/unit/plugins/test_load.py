"""Importing one plugin."""

from __future__ import annotations

import sys

import pytest

from hopyard.errors import IncompatibleError, PluginError, PluginLoadError
from hopyard.plugins import find
from hopyard.plugins._load import Loaded, installed_hookspecs, load


def load_only(version: str = "0.1.0") -> Loaded:
    (candidate,) = find()
    return load(candidate, version)


def test_a_module_is_loaded(site) -> None:
    site.plugin("a", "value = 7")
    loaded = load_only()
    assert loaded.error is None
    assert loaded.plugin.value == 7


def test_a_nested_attribute_is_loaded(site) -> None:
    source = "class Holder:\n    plugin = object()\n"
    site.install("dist-a", plugins={"a": "site_a:Holder.plugin"}, site_a=source)
    assert load_only().plugin is sys.modules["site_a"].Holder.plugin


@pytest.mark.parametrize(
    ("entry_point", "source", "cause"),
    [
        ("site_gone", "", ModuleNotFoundError),
        ("site_a:missing", "", AttributeError),
        ("site_a", "raise RuntimeError('no')", RuntimeError),
        ("site_a", "def f(:", SyntaxError),
        ("site_a", "raise SystemExit(3)", SystemExit),
        ("not-a-module!", "", ValueError),
    ],
)
def test_what_goes_wrong_is_kept_with_plugin_and_cause(site, entry_point, source, cause) -> None:
    site.install("dist-a", "1.5", plugins={"a": entry_point}, site_a=source)
    loaded = load_only()
    assert isinstance(loaded.error, PluginLoadError)
    assert str(loaded.error.plugin) == "a [dist-a 1.5]"
    assert loaded.error.stage == "load"
    assert isinstance(loaded.error.__cause__, cause)
    assert cause.__name__ in loaded.error.message
    assert loaded.plugin is None


def test_an_error_that_cannot_be_printed_is_still_reported(site) -> None:
    source = """
    class Rude(Exception):
        def __str__(self):
            raise RuntimeError("not telling")

    raise Rude
    """
    site.plugin("a", source)
    assert "Rude" in str(load_only().error)


def test_an_interrupt_is_the_users_and_passes(site) -> None:
    site.plugin("a", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_only()


@pytest.mark.parametrize(
    ("requirement", "version", "fits"),
    [
        (">=0.1,<0.2", "0.1.0", True),
        (">=0.1,<0.2", "0.2.0", False),
        (">=0.2", "0.1.0", False),
        (">=0.1", "0.2.0.dev3", True),
        ("", "17", True),
    ],
)
def test_the_requirement_is_checked_before_the_import(site, requirement, version, fits) -> None:
    requires = [f"hopyard-hookspecs{requirement}"]
    site.install("dist-a", plugins={"a": "site_a"}, requires=requires, site_a="")
    loaded = load_only(version)
    assert ("site_a" in sys.modules) is fits
    assert isinstance(loaded.error, IncompatibleError) is not fits
    if not fits:
        assert version in str(loaded.error)
        assert str(loaded.error.plugin) == "a [dist-a 1.0]"


def test_a_plugin_with_broken_metadata_is_not_imported(site) -> None:
    requires = ["hopyard-hookspecs at least 1"]
    site.install("dist-a", plugins={"a": "site_a"}, requires=requires, site_a="")
    assert isinstance(load_only().error, PluginLoadError)
    assert "site_a" not in sys.modules


def test_the_installed_hook_specifications_are_read_from_their_metadata(site) -> None:
    assert installed_hookspecs() == "0.1.0"


def test_hook_specifications_without_metadata_are_reported(site) -> None:
    (site.folder / "hopyard_hookspecs-0.1.0.dist-info" / "METADATA").unlink()
    (site.folder / "hopyard_hookspecs-0.1.0.dist-info").rmdir()
    with pytest.raises(PluginError, match="hopyard-hookspecs"):
        installed_hookspecs()
