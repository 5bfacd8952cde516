"""Partitions as native code: computed, saved, and run in a new process."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import assert_close

import hopyard_aotinductor_delegate._plugin as aotinductor_plugin
import hopyard_executorch_delegate._plugin as delegate_plugin
from hopyard import Program, Session
from hopyard.errors import ArtifactError, OptionError, UnknownNameError
from hopyard_executorch_delegate import (
    LoweredModule,
    call_delegate,
    delegate,
    report,
)

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
    # Inductor is not free of warnings.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

X = torch.linspace(-1, 1, 12).reshape(4, 3)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        y = torch.tanh(self.linear(x))
        return y * self.calls, y.argmax(-1)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False, plugins=[delegate_plugin, aotinductor_plugin])


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model()


@pytest.fixture(scope="module")
def delegated(session: Session, model: Model) -> Program:
    shapes = {"x": {0: Dim("batch", min=2, max=16)}}
    program = session.capture(model, (X,), dynamic_shapes=shapes)
    return delegate(program, session, ("aotinductor",))


@pytest.fixture(scope="module")
def saved(delegated: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "program.pt2"
    delegated.save(path)
    return path


@pytest.mark.parametrize("batch", [2, 4, 16])
def test_native_code_computes_what_eager_does(batch: int, delegated: Program, model: Model) -> None:
    x = torch.randn(batch, 3)
    with torch.no_grad():
        found = delegated(x)
        calls = model.calls.clone()
        y = torch.tanh(model.linear(x))
    assert_close(found, (y * calls, y.argmax(-1)))
    assert {each.backend for each in report(delegated).partitions} == {"aotinductor"}
    assert report(delegated).undelegated == ()


def test_gradients_are_right(delegated: Program, model: Model) -> None:
    model.zero_grad()
    delegated(X)[0].sum().backward()
    found = model.linear.weight.grad.clone()
    model.zero_grad()
    (torch.tanh(model.linear(X)) * model.calls).sum().backward()
    assert_close(found, model.linear.weight.grad)


def test_training_the_module_changes_what_the_code_computes(
    delegated: Program, model: Model
) -> None:
    with torch.no_grad():
        model.linear.weight.mul_(1.5)
        found = delegated(X)[1]
        assert_close(found, torch.tanh(model.linear(X)).argmax(-1))


RELOAD = """
import sys, torch
import hopyard_aotinductor_delegate._plugin as one
import hopyard_executorch_delegate._plugin as other
from hopyard import Session

session = Session(discover=False, plugins=[one, other])
program = session.load(sys.argv[1], trust=True)
(module,) = [m for m in program.graph_module.children() if m.backend_id == "aotinductor"]
def never(*operands):
    raise SystemExit("the reference graph ran")
module.original_module.forward = never
with torch.no_grad():
    values, indices = program(torch.linspace(-1, 1, 12).reshape(4, 3))
print(values.flatten().tolist(), indices.tolist(), sep=";")
"""


def test_it_runs_in_a_new_process(saved: Path, session: Session) -> None:
    with torch.no_grad():
        values, indices = session.load(saved, trust=True)(X)
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(saved)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{values.flatten().tolist()};{indices.tolist()}"


def test_native_code_is_loaded_only_if_it_is_trusted(saved: Path, session: Session) -> None:
    with pytest.raises(ArtifactError, match="native code of the backend 'aotinductor'"):
        session.load(saved)


def test_without_the_plugin_the_file_says_what_it_needs(saved: Path) -> None:
    other = Session(discover=False, plugins=[delegate_plugin])
    with pytest.raises(UnknownNameError, match="aotinductor") as caught:
        other.load(saved, trust=True)
    assert caught.value.distribution == "hopyard-aotinductor-delegate"


def test_damaged_code_is_refused(session: Session, delegated: Program) -> None:
    (module,) = delegated.graph_module.children()
    half = module.processed_bytes[: len(module.processed_bytes) // 2]
    lowered = dataclasses.replace(module.lowered, processed_bytes=half)
    broken = LoweredModule(lowered, session.backend("aotinductor"))
    with torch.no_grad(), pytest.raises(ArtifactError, match="cannot load a program compiled"):
        call_delegate(broken, X)


def test_it_has_no_options(session: Session) -> None:
    program = session.capture(torch.sin, (X,))
    with pytest.raises(OptionError, match="has no options, but was given fast"):
        delegate(program, session, ("aotinductor",), options={"aotinductor": {"fast": True}})
