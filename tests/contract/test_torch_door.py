"""The door to private torch: every name that goes through it exists, is plain and is declared."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
from workspace import FRAMEWORK, parse

ROOMS = sorted((FRAMEWORK.source / "_torch").glob("[!_]*.py"))


def module_of(path: Path) -> str:
    return f"hopyard._torch.{path.stem}"


def declared(path: Path) -> list[str]:
    for node in parse(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def bound(path: Path) -> set[str]:
    """Return what the module binds at its top level for others to use."""
    names: set[str] = set()
    for node in parse(path).body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
            names |= {alias.asname for alias in node.names if alias.asname}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {ast.unparse(target) for target in targets}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_what_goes_through_the_door_is_declared(path: Path) -> None:
    assert set(declared(path)) == bound(path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        pytest.param(path, name, id=f"{path.stem}.{name}")
        for path in ROOMS
        for name in declared(path)
    ],
)
def test_the_name_is_plain_and_torch_still_has_it(path: Path, name: str) -> None:
    assert not name.startswith("_")
    assert getattr(importlib.import_module(module_of(path)), name) is not None
