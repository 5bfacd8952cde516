"""Who may import whom: hookspecs ← framework ← plugins, and one door to private torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from imports import Use, uses
from workspace import EXAMPLES, FRAMEWORK, HOOKSPECS, PLUGINS, PROJECTS, ROOT, Project, parse

DOOR = FRAMEWORK.source / "_torch"
PUBLIC_IN_NAME_ONLY = (
    "torch.export._",
    "torch.fx.experimental",
    "torch.fx.passes.infra",
    "torch.utils.data._",
)
"""Packages that torch gives a public name and no promise."""

EVERYTHING = (*PROJECTS, *EXAMPLES)
MODULES = [
    pytest.param(project, path, id=path.relative_to(ROOT).as_posix())
    for project in EVERYTHING
    for path in project.modules()
]


def is_private_segment(segment: str) -> bool:
    return segment.startswith("_") and not (segment.startswith("__") and segment.endswith("__"))


def is_private_torch(name: str) -> bool:
    root, *rest = name.split(".")
    if root != "torch" or rest[:1] == ["ops"]:  # operators may be called `_softmax`
        return False
    return any(map(is_private_segment, rest)) or name.startswith(PUBLIC_IN_NAME_ONLY)


def used_in(project: Project, path: Path) -> list[Use]:
    parts = path.relative_to(project.folder / "src").with_suffix("").parts
    package = parts[:-1]
    return list(uses(parse(path), ".".join(package)))


def told(path: Path, offending: list[Use]) -> str:
    where = path.relative_to(ROOT).as_posix()
    return "\n".join(f"{where}:{use.line}: {use.name}" for use in offending)


@pytest.mark.parametrize(
    ("project", "path"), [case for case in MODULES if not case.values[1].is_relative_to(DOOR)]
)
def test_private_torch_enters_through_one_door(project: Project, path: Path) -> None:
    offending = [use for use in used_in(project, path) if is_private_torch(use.name)]
    assert not offending, f"offer these from hopyard._torch instead:\n{told(path, offending)}"


@pytest.mark.parametrize(("project", "path"), MODULES)
def test_nobody_imports_the_private_modules_of_another_distribution(
    project: Project, path: Path
) -> None:
    ours = {other.package for other in EVERYTHING} - {project.package}
    offending = [
        use
        for use in used_in(project, path)
        if use.name.partition(".")[0] in ours
        and any(map(is_private_segment, use.name.split(".")[1:]))
    ]
    assert not offending, f"use what is offered publicly:\n{told(path, offending)}"


@pytest.mark.parametrize(("project", "path"), MODULES)
def test_imports_point_one_way(project: Project, path: Path) -> None:
    below: dict[str, set[str]] = {
        HOOKSPECS.name: set(),
        FRAMEWORK.name: {HOOKSPECS.package},
    }
    allowed = below.get(project.name, {HOOKSPECS.package, FRAMEWORK.package}) | {project.package}
    ours = {other.package for other in EVERYTHING}
    offending = [
        use
        for use in used_in(project, path)
        if use.imported and use.name.partition(".")[0] in ours - allowed
    ]
    assert not offending, f"{project} may not import these:\n{told(path, offending)}"


@pytest.mark.parametrize("path", list(HOOKSPECS.modules()), ids=lambda path: path.name)
def test_the_contract_needs_pluggy_only(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"pluggy", HOOKSPECS.package}
    offending = [
        use
        for use in used_in(HOOKSPECS, path)
        if use.imported and not use.typing_only and use.name.partition(".")[0] not in allowed
    ]
    assert not offending, told(path, offending)


@pytest.mark.parametrize(
    "source",
    [
        "import torch._C",
        "import torch._ops as ops",
        "from torch import _dynamo",
        "from torch._subclasses import FakeTensor",
        "from torch.utils._pytree import tree_map",
        "import torch.fx.experimental.proxy_tensor",
        "from torch.fx.experimental import symbolic_shapes",
        "from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner",
        "import torch\ntorch._C._get_tracing_state()",
        "import torch\ntorch.Tensor._make_subclass",
        "import torch.utils as helpers\nhelpers._pytree.tree_map",
        "from torch import fx\nfx.graph._PyTreeInfo",
        "import importlib\nimportlib.import_module('torch._inductor')",
        "import torch\ngetattr(torch, '_C')",
        "def later():\n    from torch import _guards",
        "import typing\nif typing.TYPE_CHECKING:\n    from torch._ops import OpOverload",
    ],
)
def test_private_torch_is_recognised(source: str) -> None:
    assert any(is_private_torch(use.name) for use in uses(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.__version__",
        "import torch\ntorch.ops.aten._softmax.default",
        "import torch\ntorch.ops.aten.mul.Tensor",
        "from torch.fx import Graph\nGraph().lint()",
        "import torchvision._internals",
        "from hopyard._torch.graphs import make_graph_module",
        "node._erased",
        "def f(torch_like):\n    torch_like._C",
    ],
)
def test_public_torch_and_other_packages_are_left_alone(source: str) -> None:
    assert not any(is_private_torch(use.name) for use in uses(ast.parse(source)))


@pytest.mark.parametrize("tree", ["from ._names import check", "from . import _names"])
def test_a_relative_import_is_resolved(tree: str) -> None:
    names = [use.name for use in uses(ast.parse(tree), "hopyard_hookspecs")]
    assert names[0].startswith("hopyard_hookspecs._names")


LIGHT = [
    "hopyard_hookspecs",
    "hopyard",
    "hopyard.errors",
    "hopyard.plugins",
    "hopyard.cli",
    *(f"{plugin.package}._plugin" for plugin in PLUGINS),
]


@pytest.mark.parametrize("module", LIGHT)
def test_listing_never_pays_for_torch(module: str) -> None:
    heavy = ("torch", "numpy", "sympy", "transformers", "executorch")
    program = f"import sys, {module}\nprint(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"importing {module} loads these"
