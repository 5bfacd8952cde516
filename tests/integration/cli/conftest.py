"""A working directory with factories, and an environment with one plugin that works."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from hopyard.cli import main

PLUGIN = """
    from hopyard_hookspecs import Hazard, Hop, Pass, Safeguard, Severity, hookimpl

    SUMMED = Hazard("CF001", "a running sum", remedy="sum at once", severity=Severity.WARNING)

    @hookimpl
    def hopyard_register_passes():
        yield Pass("keep", "site_good_passes:Keep", summary="Change nothing.")
        yield Pass("rescale", "site_good_passes:Rescale", summary="Multiply constants.")
        yield Pass("explode", "site_good_passes:Explode")

    @hookimpl
    def hopyard_register_hops():
        yield Hop("good__region", summary="Runs its body.")

    @hookimpl
    def hopyard_register_safeguards():
        yield Safeguard("sums", (SUMMED,), watch="site_good_passes:watch_sums")
"""

PASSES = """
    from dataclasses import dataclass

    import torch
    from hopyard_hookspecs import Finding, PassResult, Watch

    @dataclass(frozen=True)
    class Keep:
        def __call__(self, graph_module):
            return PassResult(graph_module, modified=False)

    @dataclass(frozen=True)
    class Rescale:
        '''Multiply the constants of multiplications.'''

        factor: float = 1.0
        label: str | None = None

        def __call__(self, graph_module):
            for node in graph_module.graph.nodes:
                if node.target is torch.ops.aten.mul.Tensor and type(node.args[1]) is float:
                    node.args = (node.args[0], node.args[1] * self.factor)
            return PassResult(graph_module, modified=True)

    @dataclass(frozen=True)
    class Explode:
        def __call__(self, graph_module):
            raise RuntimeError("the pass blew up")

    def watch_sums():
        return Watch({torch.cumsum: lambda call: Finding("CF001", "cumsum was called")})
"""

FACTORIES = """
    import sys

    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.norm = nn.BatchNorm1d(3)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            return self.dropout(self.norm(self.linear(x))) * 2.0

    def make():
        print("the factory was called")
        return Net(), (torch.randn(5, 4),)

    def running_sum():
        return lambda x, *, scale: torch.cumsum(x, 0) * scale, (torch.ones(3),), {"scale": 2.0}

    def in_place():
        def add(x, y):
            x.add_(y).mul_(2.0)
            return y - x
        return add, (torch.ones(3), torch.arange(3.0))

    def with_gradients():
        weight = nn.Parameter(torch.ones(3))
        inputs = torch.ones(3, requires_grad=True) * 2
        return lambda x: (x.sin() * 2.0, torch.is_grad_enabled()), (inputs,)


    def raises():
        helper()

    def helper():
        raise ValueError("no weights")

    def exits():
        sys.exit(3)

    def returns_module():
        return Net()

    def returns_tensor_as_args():
        return Net(), torch.ones(3)

    def returns_number():
        return 3, (torch.ones(3),)

    def returns_list_as_kwargs():
        return Net(), (torch.ones(3),), ["x"]

    def needs(size):
        return Net(), (torch.ones(size, 4),)

    def does_not_run():
        return Net(), (torch.ones(5, 7),)

    def only_module():
        return Net()

    def only_args():
        return (torch.randn(5, 4),)

    def only_function():
        return lambda x, *, scale: torch.cumsum(x, 0) * scale

    def args_and_kwargs():
        return (torch.ones(3),), {"scale": 2.0}

    SIZE = 3
"""


@dataclass
class Place:
    """A working directory, an environment and the outcome of the last command.

    Attributes:
        folder: The working directory.
        site: Where distributions are installed.
    """

    folder: Path
    site: Path
    _capsys: pytest.CaptureFixture[str]
    _monkeypatch: pytest.MonkeyPatch
    _plugins: list[str] = field(default_factory=list)
    code: int = 0
    out: str = ""
    err: str = ""

    def write(self, name: str, source: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(source))
        importlib.invalidate_caches()

    def install(self, slug: str, source: str) -> None:
        """Write a distribution that an installer could have written, and let it in."""
        module = f"site_{slug.replace('-', '_')}"
        info = self.site / f"dist_{slug.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.3\nName: dist-{slug}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[hopyard.plugins]\n{slug} = {module}\n")
        self.write_module(module, source)
        self._plugins.append(slug)
        self._monkeypatch.setenv("HOPYARD_PLUGINS_ALLOW", ",".join(self._plugins))

    def write_module(self, name: str, source: str) -> None:
        (self.site / f"{name}.py").write_text(dedent(source))
        importlib.invalidate_caches()

    def run(self, *argv: str) -> Place:
        """Run a command in this process."""
        self._capsys.readouterr()
        self.code = main(argv)
        self.out, self.err = self._capsys.readouterr()
        return self

    def json(self, *argv: str) -> dict[str, Any]:
        self.run(*argv, "--json")
        return json.loads(self.out)

    def process(
        self, *argv: str, program: Sequence[str] = ("-m", "hopyard"), **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a process of its own."""
        environment = {**os.environ, "PYTHONPATH": str(self.site)}
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
        return subprocess.run(
            [sys.executable, *program, *argv],
            cwd=self.folder,
            env=environment,
            text=True,
            timeout=120,
            check=False,
            **settings,
        )


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Place]:
    folder, site = tmp_path / "work", tmp_path / "site"
    folder.mkdir()
    site.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delenv("HOPYARD_PLUGINS_DENY", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    place = Place(folder, site, capsys, monkeypatch)
    place.install("good", PLUGIN)
    place.write_module("site_good_passes", PASSES)
    place.write("factories.py", FACTORIES)
    yield place
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def refused(place: Place) -> Callable[..., str]:
    """Run a command that must be refused as misuse, and return the message."""

    def refuse(*argv: str) -> str:
        place.run(*argv)
        assert (place.code, place.out) == (2, "")
        assert place.err.startswith("hopyard: error: ")
        assert "Traceback" not in place.err
        assert place.err.count("\n") == 1
        return place.err

    return refuse
