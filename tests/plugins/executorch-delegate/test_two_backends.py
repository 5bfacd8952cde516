"""One program of ExecuTorch with delegates of two backends, one of them a third party's."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import assert_close
from workspace import ROOT

import hopyard_executorch_delegate._plugin as delegate_plugin
from hopyard import Session
from hopyard.errors import ArtifactError
from hopyard_executorch_delegate import PteProgram, inspect_pte, to_executorch
from hopyard_hookspecs import Backend, Support, hookimpl

pytest.importorskip("executorch.exir", reason="executorch is not installed: make test-executorch")

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
    pytest.mark.filterwarnings("ignore"),
]

MACHINE = ROOT / "docs/examples/hopyard-tape-machine/src/hopyard_tape_machine/machine.py"
SOURCE = Path(__file__).parent / "native/tape_runtime.cpp"


def machine() -> Any:
    spec = importlib.util.spec_from_file_location("tape_machine_of_tests", MACHINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Build the backend against the installed runtime, and load it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import executorch.runtime

    folder = Path(executorch.runtime.__file__).parents[1]
    library = tmp_path_factory.mktemp("native") / "libtape_runtime.so"
    # Headers of the runtime use some of torch's.
    include = [f"-I{folder / 'include'}", f"-I{Path(torch.__file__).parent / 'include'}"]
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", *include]
    link = [f"-L{folder / 'lib'}", "-lexecutorch", f"-Wl,-rpath,{folder / 'lib'}"]
    done = subprocess.run(
        [*command, str(SOURCE), "-o", str(library), *link],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ctypes.CDLL(str(library))
    return executorch.runtime.Runtime.get()


@pytest.fixture(scope="module")
def session() -> Session:
    tape = machine()

    class OfOneShape(tape.TapeMachine):  # type: ignore[name-defined,misc]
        def supports(self, node: Any) -> Support:
            shapes = {str(each.meta["val"].shape) for each in (node, *node.all_input_nodes)}
            return super().supports(node) if len(shapes) == 1 else Support(False, "broadcasts")

    class Plugin:
        @hookimpl
        def hopyard_register_backends(self) -> Iterator[Backend]:
            yield Backend("tape-machine", implementation=OfOneShape)

    return Session(discover=False, plugins=[delegate_plugin, Plugin()])


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.first(x).sin()
        z = self.second(torch.sigmoid(y + y * y))
        return torch.cumsum(z, 0) - z.exp(), y


@pytest.mark.parametrize("dynamic", [False, True])
def test_both_run_in_one_program(dynamic: bool, session: Session, runtime: Any) -> None:
    assert "tape-machine" in runtime.backend_registry.registered_backend_names
    torch.manual_seed(0)
    model = Model().eval()
    shapes = {"x": {0: Dim("batch", min=2, max=16)}} if dynamic else None
    with torch.no_grad():
        program = session.capture(model, (torch.randn(3, 4),), dynamic_shapes=shapes)
    content = to_executorch(program, ("tape-machine", "xnnpack"), session=session)
    listing = inspect_pte(content)
    assert {each.backend for each in listing.delegates} == {"tape-machine", "XnnpackBackend"}
    assert any("cumsum" in name for name in listing.operators)
    loaded = PteProgram(content)
    for batch in (3, 2, 16) if dynamic else (3, 3):
        x = torch.randn(batch, 4)
        with torch.no_grad():
            assert_close(loaded(x), list(model(x)), rtol=1e-5, atol=1e-5)


def test_a_blob_that_the_runtime_refuses_is_an_error(session: Session, runtime: Any) -> None:
    program = session.capture(lambda x: x.sin() + x, (torch.ones(3),))
    content = to_executorch(program, ("tape-machine",), session=session)
    damaged = content.replace(b"TAPE", b"tape")
    with pytest.raises(ArtifactError, match="cannot load the method 'forward'"):
        PteProgram(damaged)(torch.ones(3))
