"""Programs captured above autograd keep operators whole and can be trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from hopyard import Session
from hopyard.errors import UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

aten = torch.ops.aten


class Layered(nn.Module):
    def __init__(self, forward: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(()))
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self.linear, x)


def without_grad(linear: nn.Module, x: Tensor) -> Tensor:
    y = linear(x)
    with torch.no_grad():
        z = linear(y)
    with torch.set_grad_enabled(True):
        return y + z * linear(x)


def in_low_precision(linear: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x)
    return y.float() + x


def with_constant(linear: nn.Module, x: Tensor) -> Tensor:
    return linear(x + torch.tensor([1.0, 2.0, 3.0])).relu_()


MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 3),
    "without grad": lambda: Layered(without_grad),
    "autocast": lambda: Layered(in_low_precision),
    "constant": lambda: Layered(with_constant),
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
    "attention": lambda: nn.TransformerEncoderLayer(3, 1, 8, dropout=0.0, batch_first=True),
}


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False)


def _trained(function: Callable[..., Any], module: nn.Module, given: Tensor) -> list[Any]:
    module.zero_grad()
    result = function(given)
    result.square().sum().backward()
    gradients = [None if each.grad is None else each.grad.clone() for each in module.parameters()]
    return [result, *gradients, *(each.clone() for each in module.buffers())]


@pytest.mark.parametrize("how", ["captured", "exported", "saved"])
@pytest.mark.parametrize("name", MODULES)
def test_it_computes_trains_and_is_kept(
    session: Session, tmp_path: Path, name: str, how: str
) -> None:
    module = MODULES[name]()
    twin = copy.deepcopy(module)
    example = torch.randn(4, 2, 3) if name == "attention" else torch.randn(4, 3)
    dynamic = {} if name in ("attention", "batch norm") else {"dynamic_shapes": [{0: Dim.AUTO}]}
    if isinstance(module, Layered):
        dynamic = {"dynamic_shapes": {"x": {0: Dim.AUTO}}}
    program = session.capture(module, (example,), pre_dispatch=True, **dynamic)
    if how == "exported":
        again = session.from_exported_program(program.to_exported_program())
        assert again == program
        program = again
    if how == "saved":
        program.save(tmp_path / "it.pt2")
        loaded = session.load(tmp_path / "it.pt2")
        given = torch.randn_like(example)
        torch.testing.assert_close(loaded(given), twin(given))
        return
    for _ in range(2):
        given = torch.randn(6, 3) if dynamic else torch.randn_like(example)
        found, expected = _trained(program, module, given), _trained(twin, twin, given)
        torch.testing.assert_close(found, expected)


def test_composite_operators_are_whole_and_statistics_are_declared(session: Session) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Softplus())
    program = session.capture(module, (torch.randn(4, 3),), pre_dispatch=True)
    assert aten.linear.default in [node.target for node in program.graph.nodes]
    changed = {spec.target for spec in program.signature.output_specs if spec.target}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    decomposed = program.to_exported_program().run_decompositions()
    assert aten.linear.default not in [node.target for node in decomposed.graph.nodes]


def test_a_write_through_a_view_is_refused_with_its_line(session: Session) -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 2
        y[0].add_(1)
        return y

    with pytest.raises(UnsupportedError, match="have views") as raised:
        session.capture(function, (torch.randn(2, 3),), pre_dispatch=True)
    assert raised.value.location is not None
    assert raised.value.location.line == function.__code__.co_firstlineno + 2
    assert "without pre_dispatch" in raised.value.hint


def test_nodes_tell_their_modules_when_asked(session: Session) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            y[0].add_(1)
            return y

    for record in (False, True):
        program = session.capture(Writing(), (torch.randn(2, 3),), record_module_stack=record)
        stacks = {
            str(node.target): [path for path, _ in node.meta["nn_module_stack"].values()]
            for node in program.graph.nodes
            if "nn_module_stack" in node.meta
        }
        assert bool(stacks) == record
    assert stacks["aten.relu.default"] == ["", "inner", "inner.1"]
    assert stacks["aten.addmm.default"] == ["", "inner", "inner.0"]


def gradient_inside(x: Tensor) -> Tensor:
    y = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(y.exp().sum(), y)
    return gradient * x


def data_of_an_input(x: Tensor) -> Tensor:
    return x.data * x


@pytest.mark.parametrize("function", [gradient_inside, data_of_an_input])
def test_what_is_not_seen_above_autograd_is_no_constant(
    session: Session, function: Callable[[Tensor], Tensor]
) -> None:
    example = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(UnsupportedError) as raised:
        session.capture(function, (example,), pre_dispatch=True)
    lines = range(function.__code__.co_firstlineno, function.__code__.co_firstlineno + 4)
    assert raised.value.location.line in lines
    assert "pre_dispatch=False" in raised.value.hint
    assert session.capture(function, (example,))(example).equal(function(example))
