"""The programs in the documentation do what the pages say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from pages import program
from wheels import build, unpack
from workspace import EXAMPLES, ROOT, Project

PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if program(page).strip() and "examples" not in page.parts and "_build" not in page.parts
]


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the examples are installed as anybody would install them."""
    folders = [example.folder for example in EXAMPLES if "build-system" in example.pyproject]
    site = tmp_path_factory.mktemp("third-party")
    for wheel in build(folders, tmp_path_factory.mktemp("wheels")).values():
        unpack(wheel, site)
    return site


def run(arguments: list[str], site: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def run_page(page: Path, site: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / page.with_suffix(".py").name
    script.write_text(program(page), encoding="utf-8")
    return run(["-W", "error", script.name], site, folder)


@pytest.fixture(scope="session")
def runs(
    request: pytest.FixtureRequest, third_party: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[Path, Future[subprocess.CompletedProcess[str]]]]:
    """The pages that are tested, each in a process of its own.

    As many run at a time as there are cores: loading torch takes most of the time.
    """
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    pages = [page for page in PAGES if any(call.params.get("page") is page for call in calls)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            page: pool.submit(run_page, page, third_party, tmp_path_factory.mktemp("page"))
            for page in pages
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_runs_from_top_to_bottom(
    page: Path, runs: Mapping[Path, Future[subprocess.CompletedProcess[str]]]
) -> None:
    done = runs[page].result()
    assert done.returncode == 0, done.stderr


def test_the_first_tutorial_is_one_of_them() -> None:
    assert ROOT / "docs/tutorial/first-plugin.md" in PAGES


@pytest.mark.parametrize(
    "example", [example for example in EXAMPLES if (example.folder / "tests").is_dir()], ids=str
)
def test_an_example_passes_its_own_tests(
    example: Project, third_party: Path, tmp_path: Path
) -> None:
    folder = example.folder
    options = ["-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    cache = ["-p", "no:cacheprovider"]
    done = run(["-m", "pytest", *options, *cache, str(folder / "tests")], third_party, tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_third_partys_pass_is_listed_without_torch(third_party: Path, tmp_path: Path) -> None:
    listing = (
        "import sys, hopyard\n"
        "entry = hopyard.Session().passes['fold-scale']\n"
        "print(entry.provider)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = run(["-c", listing], third_party, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fold-scale [hopyard-fold-scale 1.0.0]"


def test_a_program_keeps_the_line_numbers_of_its_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n```python\na = 1\n```\n\n````md\n```python\nno\n```\n````\n\n```toml\nb\n```\n"
        "\n```python\nassert a == 1\n```\n",
        encoding="utf-8",
    )
    lines = program(page).splitlines()
    assert [(number, line) for number, line in enumerate(lines, 1) if line] == [
        (4, "a = 1"),
        (18, "assert a == 1"),
    ]
