"""A third party's backend, outside of `plugins`: built, installed beside Hopyard and used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from wheels import build, unpack
from workspace import ROOT

FOLDER = ROOT / "docs/examples/hopyard-tape-machine"

USE = """
import sys
import torch
from hopyard import Session
from hopyard_executorch_delegate import delegate, report

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(1, 2, 3))
    def forward(self, x):
        y = (x * self.weight).sin()
        return torch.softmax(y - x, -1).exp() + y

model, x = Model(), torch.linspace(-1, 1, 6).reshape(2, 3)
session = Session()
program = session.capture(model, (x,))
delegated = delegate(
    program, session, ("tape-machine", "reference"),
    options={"tape-machine": {"speed": "fast"}}, workers=2,
)
print(sorted({each.backend for each in report(delegated).partitions}))

def never(*operands):
    raise SystemExit("a reference graph ran")

delegated.save(sys.argv[1])
loaded = session.load(sys.argv[1])
for program in (delegated, loaded):
    with torch.no_grad():
        expected = model(x)
        forwards = [m.original_module.forward for m in program.graph_module.children()]
        for module in program.graph_module.children():
            module.original_module.forward = never
        torch.testing.assert_close(program(x), expected)
    for module, forward in zip(program.graph_module.children(), forwards):
        module.original_module.forward = forward
delegated(x).sum().backward()
found, model.weight.grad = model.weight.grad, None
model(x).sum().backward()
torch.testing.assert_close(found, model.weight.grad)
specs = [m.compile_specs for m in loaded.graph_module.children() if m.backend_id == "tape-machine"]
print(specs[0])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tape-machine")
    (wheel,) = build([FOLDER], folder / "wheels").values()
    unpack(wheel, folder / "site")
    return folder / "site"


def run(site: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_found_and_lowers_runs_saves_and_loads(site: Path, tmp_path: Path) -> None:
    done = run(site, "-c", USE, str(tmp_path / "program.pt2"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['reference', 'tape-machine']", "{'speed': 'fast'}"]
