"""One slug names a plugin everywhere, so that adding one needs no central edit."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from workspace import EXAMPLES, FRAMEWORK, HOOKSPECS, PLUGINS, PROJECTS, ROOT, Project

THIRD_PARTY = [example for example in EXAMPLES if example.name.startswith("hopyard-")]
GROUP = "hopyard.plugins"


def test_there_are_plugins_to_look_at() -> None:
    assert {"strict-mode", "executorch-delegate", "autograd-safeguard", "export-pass"} <= {
        plugin.slug for plugin in PLUGINS
    }


def test_every_folder_of_plugins_is_a_distribution() -> None:
    folders = {
        folder.name
        for folder in (ROOT / "plugins").iterdir()
        if folder.is_dir() and any(folder.rglob("*.py"))
    }
    assert folders == {plugin.folder.name for plugin in PLUGINS}


@pytest.mark.parametrize("plugin", PLUGINS, ids=str)
def test_the_slug_is_the_folder(plugin: Project) -> None:
    assert plugin.name == f"hopyard-{plugin.folder.name}"


@pytest.mark.parametrize("plugin", THIRD_PARTY, ids=str)
def test_an_example_is_in_a_folder_called_like_its_distribution(plugin: Project) -> None:
    assert plugin.name == plugin.folder.name


@pytest.mark.parametrize("plugin", [*PLUGINS, *THIRD_PARTY], ids=str)
class TestPlugin:
    def test_the_slug_is_words_joined_by_hyphens(self, plugin: Project) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", plugin.slug)

    def test_the_slug_is_the_only_import_package(self, plugin: Project) -> None:
        packages = [path.name for path in (plugin.folder / "src").iterdir() if path.is_dir()]
        assert [name for name in packages if name != "__pycache__"] == [
            f"hopyard_{plugin.slug.replace('-', '_')}"
        ]

    def test_the_slug_is_the_only_entry_point(self, plugin: Project) -> None:
        module = f"{plugin.package}._plugin"
        assert plugin.metadata["entry-points"][GROUP] == {plugin.slug: module}
        assert (plugin.source / "_plugin.py").is_file()

    def test_it_declares_which_contract_it_was_written_for(self, plugin: Project) -> None:
        declared = {need.name: need for need in map(Requirement, plugin.metadata["dependencies"])}
        operators = {part.operator for part in declared[HOOKSPECS.name].specifier}
        assert operators & {">=", "~=", "=="}, "it must say since when"
        assert operators & {"<", "<=", "~=", "=="}, "it must say until when"

    def test_it_needs_no_other_plugin(self, plugin: Project) -> None:
        declared = {Requirement(text).name for text in plugin.metadata["dependencies"]}
        assert not declared & ({other.name for other in PLUGINS} - {plugin.name})


@pytest.mark.parametrize("project", [*PROJECTS, *THIRD_PARTY], ids=str)
class TestDistribution:
    def test_it_has_a_readme_and_a_typed_package_in_src(self, project: Project) -> None:
        assert project.metadata["readme"] == "README.md"
        assert (
            (project.folder / "README.md")
            .read_text(encoding="utf-8")
            .startswith(f"# {project.name}\n")
        )
        assert (project.source / "__init__.py").is_file()
        assert (project.source / "py.typed").is_file()

    def test_it_is_built_by_hatchling(self, project: Project) -> None:
        assert project.pyproject["build-system"]["build-backend"] == "hatchling.build"

    def test_it_asks_for_the_python_that_all_ask_for(self, project: Project) -> None:
        assert project.metadata["requires-python"] == FRAMEWORK.metadata["requires-python"]

    def test_it_is_licensed_like_the_rest(self, project: Project) -> None:
        assert project.metadata["license"] == "MIT"
