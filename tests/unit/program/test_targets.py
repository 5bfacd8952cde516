"""What may be captured besides modules and functions, and what may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import symbolic_trace
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import hopyard
from hopyard.errors import UnsupportedError, UsageError


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session(discover=False)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 2)
        self.register_buffer("offset", torch.ones(2), persistent=False)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        return {"y": self.linear(self.norm(x)) * scale + self.offset}


EXAMPLE: tuple[Any, Any] = ((torch.randn(4, 3),), {"scale": torch.tensor(2.0)})


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("kind", ["exported program", "program", "its module", "graph module"])
def test_a_captured_program_is_captured_again(session: hopyard.Session, kind: str) -> None:
    model = Model()
    args, kwargs = EXAMPLE
    exported = torch.export.export(model, args, kwargs)
    target = {
        "exported program": exported,
        "program": session.capture(model, args, kwargs),
        "its module": exported.module(),
        "graph module": symbolic_trace(model),
    }[kind]
    with torch.no_grad():
        program = session.capture(target, args, kwargs)
        assert set(program.state) == {*dict(model.named_parameters()), *dict(model.named_buffers())}
        torch.testing.assert_close(program(*args, **kwargs), model(*args, **kwargs))
    assert program.state["linear.weight"] is model.linear.weight
    assert model.norm.num_batches_tracked.item() == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(session: hopyard.Session) -> None:
    with pytest.raises(UnsupportedError) as raised:
        session.capture(torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3)), (torch.ones(1, 3),))
    assert "torch.jit" in raised.value.hint


def test_a_module_without_shapes_is_refused_and_left(session: hopyard.Session) -> None:
    lazy = nn.LazyLinear(2)
    with pytest.raises(UnsupportedError, match="weight"):
        session.capture(lazy, (torch.ones(1, 3),))
    assert lazy.has_uninitialized_params()


@pytest.mark.parametrize("shapes", [False, True])
@pytest.mark.parametrize("active", [False, True])
def test_a_module_made_under_a_fake_mode(
    session: hopyard.Session, tmp_path: Path, *, active: bool, shapes: bool
) -> None:
    fake_mode = FakeTensorMode(shape_env=ShapeEnv() if shapes else None, static_shapes=True)
    with fake_mode:
        model, (args, kwargs) = Model(), ((torch.randn(4, 3),), {"scale": torch.ones(())})
    if active:
        with fake_mode:
            program = session.capture(model, args, kwargs)
    else:
        program = session.capture(model, args, kwargs)
    assert program.state["linear.weight"] is model.linear.weight
    assert {node.meta["val"].fake_mode for node in program.graph.find_nodes(op="placeholder")} == {
        fake_mode
    }
    program.to_exported_program().validate()
    with fake_mode:
        result = program(*args, **kwargs)["y"]
    assert isinstance(result, FakeTensor)
    assert result.shape == (4, 2)


def test_plain_inputs_of_a_module_made_under_a_fake_mode(session: hopyard.Session) -> None:
    fake_mode = FakeTensorMode()
    with fake_mode:
        model = nn.Linear(3, 2)
    program = session.capture(model, (torch.randn(4, 3),))
    assert program.graph.output_node().args[0][0].meta["val"].shape == (4, 2)


def test_inputs_of_several_fake_modes_are_refused(session: hopyard.Session) -> None:
    with FakeTensorMode():
        first = torch.ones(2)
    with FakeTensorMode():
        second = torch.ones(2)
    with pytest.raises(UsageError, match="several modes"):
        session.capture(torch.add, (first, second))
