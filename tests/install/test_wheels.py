"""Each distribution builds to a wheel and works alone, with only what it declares."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from wheels import Isolated, build, install_alone
from workspace import EXAMPLES, FRAMEWORK, HOOKSPECS, PLUGINS, PROJECTS, Project

THIRD_PARTY = [example for example in EXAMPLES if example.name.startswith("hopyard-")]
DISTRIBUTIONS = [*PROJECTS, *THIRD_PARTY]

IMPORT_EVERYTHING = """
import importlib, pkgutil, {package}

for found in pkgutil.walk_packages({package}.__path__, "{package}."):
    if found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        assert error.name.partition(".")[0] in {optional!r}, (found.name, error)
"""

LOAD = """
from hopyard.plugins import PluginManager

(info,) = [
    info
    for info in PluginManager(discover=True, allow=[{slug!r}]).infos
    if info.provider.plugin == {slug!r}
]
assert info.status == "active" and info.error is None, info
"""


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return build([project.folder for project in DISTRIBUTIONS], tmp_path_factory.mktemp("wheels"))


def alone(project: Project, wheels: Mapping[str, Path], into: Path) -> Isolated:
    return install_alone(wheels[canonicalize_name(project.name)], wheels, into)


@pytest.mark.parametrize("project", DISTRIBUTIONS, ids=str)
def test_a_wheel_holds_the_typed_package_and_nothing_else(
    project: Project, wheels: Mapping[str, Path]
) -> None:
    with zipfile.ZipFile(wheels[canonicalize_name(project.name)]) as archive:
        files = set(archive.namelist())
    package = {name for name in files if ".dist-info/" not in name}
    expected = {
        path.relative_to(project.folder / "src").as_posix()
        for path in project.source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package == expected
    assert f"{project.package}/py.typed" in package


@pytest.mark.parametrize("project", DISTRIBUTIONS, ids=str)
def test_every_module_imports_alone(
    project: Project, wheels: Mapping[str, Path], tmp_path: Path
) -> None:
    extras = project.metadata.get("optional-dependencies", {}).values()
    optional = {Requirement(need).name.replace("-", "_") for extra in extras for need in extra}
    program = IMPORT_EVERYTHING.format(package=project.package, optional=optional)
    done = alone(project, wheels, tmp_path).run(program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("plugin", [*PLUGINS, *THIRD_PARTY], ids=str)
def test_a_plugin_is_loaded_beside_the_framework_and_nothing_else(
    plugin: Project, wheels: Mapping[str, Path], tmp_path: Path
) -> None:
    site = alone(plugin, wheels, tmp_path)
    if not (tmp_path / FRAMEWORK.package).exists():
        install_alone(wheels[FRAMEWORK.name], wheels, tmp_path)
    done = site.run(LOAD.format(slug=plugin.slug))
    assert done.returncode == 0, done.stderr


def test_the_contract_alone_brings_no_torch(wheels: Mapping[str, Path], tmp_path: Path) -> None:
    site = alone(HOOKSPECS, wheels, tmp_path)
    assert "No module named 'torch'" in site.run("import torch").stderr


def test_an_undeclared_import_fails_here(wheels: Mapping[str, Path], tmp_path: Path) -> None:
    """The environment that runs this has rich; a distribution that does not declare it has not."""
    import rich

    assert rich
    wrong = tmp_path / "wrong"
    source = wrong / "src/hopyard_wrong"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("import rich\n", encoding="utf-8")
    (wrong / "pyproject.toml").write_text(
        (PLUGINS[0].folder / "pyproject.toml")
        .read_text(encoding="utf-8")
        .replace(PLUGINS[0].name, "hopyard-wrong")
        .replace(PLUGINS[0].package, "hopyard_wrong")
        .replace('readme = "README.md"\n', ""),
        encoding="utf-8",
    )
    (wheel,) = build([wrong], tmp_path / "wheel").values()
    done = install_alone(wheel, wheels, tmp_path / "site").run("import hopyard_wrong")
    assert done.returncode == 1
    assert "No module named 'rich'" in done.stderr
