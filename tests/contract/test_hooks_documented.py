"""A hook is documented, appears in the reference and is exercised by a test."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile
from workspace import HOOKSPECS, ROOT

import hopyard_hookspecs

HOOKS: dict[str, Callable[..., object]] = {
    name: member
    for module in hopyard_hookspecs.specifications()
    for name, member in inspect.getmembers(module, inspect.isfunction)
    if name.startswith("hopyard_")
}
EXERCISED_IN = [
    path
    for folder in ("tests", "docs/examples")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as `make docs` builds it."""
    built = tmp_path_factory.mktemp("docs")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "-b", "html", "-d", f"{built}/tree"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(built / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return built / "html"


def described(reference: Path, kind: str) -> set[str]:
    with (reference / "objects.inv").open("rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, path: path)
    return set(inventory[kind])


def test_every_module_of_the_contract_is_a_topic_or_shared() -> None:
    topics = {module.__name__.rpartition(".")[2] for module in hopyard_hookspecs.specifications()}
    public = {path.stem for path in HOOKSPECS.modules() if not path.stem.startswith("_")}
    assert public - topics == {"types"}


@pytest.mark.parametrize("name", HOOKS)
class TestHook:
    def test_its_name_says_whether_it_registers_or_observes(self, name: str) -> None:
        assert re.match(r"hopyard_(register_\w+s|before_\w+|after_\w+)$", name)

    def test_its_first_line_says_what_it_does_and_when_it_is_called(self, name: str) -> None:
        first = inspect.getdoc(HOOKS[name]).partition("\n")[0]
        assert first.startswith(("Yield ", "Observe "))
        assert "; called once " in first
        assert first.endswith(".")

    def test_it_shows_an_example_that_implements_it(self, name: str) -> None:
        _, found, example = inspect.getdoc(HOOKS[name]).partition("Example:\n")
        assert found
        assert re.search(rf"^ +@hookimpl\n +def {name}\(", example, re.MULTILINE)

    def test_it_says_since_when(self, name: str) -> None:
        assert re.search(
            r"^\.\. versionadded:: \d+\.\d+$", inspect.getdoc(HOOKS[name]), re.MULTILINE
        )

    def test_it_is_in_the_reference(self, name: str, reference: Path) -> None:
        assert f"{HOOKS[name].__module__}.{name}" in described(reference, "py:function")

    def test_the_reference_says_if_it_may_change(self, name: str, reference: Path) -> None:
        page = (reference / "reference/hooks.html").read_text(encoding="utf-8")
        _, _, entry = page.partition(f'id="{HOOKS[name].__module__}.{name}"')
        entry = entry.partition("</dl>")[0]
        provisional = hopyard_hookspecs.is_provisional(HOOKS[name])
        assert ("Provisional" in entry) == provisional

    def test_a_test_or_an_example_exercises_it(self, name: str) -> None:
        pattern = re.compile(rf"\b{name}\b")
        assert any(pattern.search(path.read_text(encoding="utf-8")) for path in EXERCISED_IN)


def test_every_public_value_of_the_contract_is_in_the_reference(reference: Path) -> None:
    public = {name for name in vars(hopyard_hookspecs) if not name.startswith("_")} - {
        "annotations",
        "ModuleType",
        "specifications",
        *(module.__name__.rpartition(".")[2] for module in hopyard_hookspecs.specifications()),
        "types",
    }
    shown = {
        name.rpartition(".")[2]
        for kind in ("py:class", "py:data", "py:function")
        for name in described(reference, kind)
    }
    assert not public - shown
