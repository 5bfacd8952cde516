"""The promises of the repository's top level: its commands, pins and tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from workspace import EXAMPLES, PLUGINS, PROJECTS, ROOT, Project

TARGETS = ("help", "demo", "test", "lint", "docs", "bench", "clean")


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def pins() -> dict[str, Requirement]:
    lines = [line for line in text("constraints.txt").splitlines() if line and line[0] != "#"]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def make(*arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_help_explains_every_target() -> None:
    explained = dict(re.findall(r"^make (\S+) +(\S.*)$", make("help"), re.MULTILINE))
    assert set(TARGETS) <= set(explained)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_planned(target: str) -> None:
    make("--dry-run", target)


def test_a_new_plugin_is_installed_without_an_edit() -> None:
    plan = make("--dry-run", "--always-make", ".venv/.base")
    assert all(f"--editable plugins/{plugin.folder.name}" in plan for plugin in PLUGINS)


def test_torch_is_installed_first_and_under_the_constraint() -> None:
    plan = make("--dry-run", "--always-make", ".venv/.demo")
    installs = [line for line in plan.splitlines() if " install " in line]
    assert all("--constraint constraints.txt" in line for line in installs)
    assert installs[0].endswith(" torch")


def test_every_pin_is_exact_and_torch_is_pinned_bare() -> None:
    assert all(re.fullmatch(r"==[^*]+", str(pin.specifier)) for pin in pins().values())
    assert re.fullmatch(r"==\d+\.\d+\.\d+", str(pins()["torch"].specifier))


@pytest.mark.parametrize("project", [*PROJECTS, *EXAMPLES], ids=str)
def test_what_a_project_needs_is_pinned_within_its_range(project: Project) -> None:
    ours = {other.name for other in PROJECTS}
    optional = project.metadata.get("optional-dependencies", {})
    installed = [*project.metadata["dependencies"], *optional.get("cli", [])]
    for need in map(Requirement, installed):
        if need.name in ours:
            continue
        (pin,) = pins()[canonicalize_name(need.name)].specifier
        assert need.specifier.contains(pin.version), f"{need} is not met by {pin}"


def test_the_gate_runs_the_command_that_the_readme_names() -> None:
    assert re.search(r"^make test\b", text("README.md"), re.MULTILINE)
    assert re.search(r"\bmake test\b", text(".ci/run"))
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("project", PROJECTS, ids=str)
def test_the_readme_lists_every_distribution(project: Project) -> None:
    assert f"`{project.name}`" in text("README.md")


def test_news_fragments_say_what_they_are() -> None:
    kinds = {
        kind["directory"]
        for kind in tomllib.loads(text("pyproject.toml"))["tool"]["towncrier"]["type"]
    }
    for fragment in (ROOT / "changelog.d").glob("*.md"):
        assert re.fullmatch(rf"(\d+|\+[a-z0-9-]+)\.({'|'.join(kinds)})(\.\d+)?\.md", fragment.name)
        assert fragment.read_text(encoding="utf-8").strip()


def test_decisions_are_numbered_without_gaps() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        sections = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert sections[:3] == ["Context", "Decision", "Consequences"], page.name


def test_the_environment_that_runs_this_is_the_pinned_one() -> None:
    from importlib.metadata import distributions

    wrong = {}
    # Build tools put what they carry along on sys.path when they are imported.
    for found in distributions(path=[sysconfig.get_path("purelib")]):
        pin = pins().get(canonicalize_name(found.metadata["Name"]))
        if pin and not pin.specifier.contains(found.version, prereleases=True):
            wrong[pin.name] = f"{found.version} is installed, {pin} is pinned"
    assert not wrong, f"{sys.prefix} drifted: {wrong}"
