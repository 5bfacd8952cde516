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


def rows_and_columns(linear: nn.Module, x: Tensor) -> Any:
    y = linear(x)
    row, column = y[0], y.t()[1]
    y[0].mul_(x.mean())
    y[:, 1] = x[:, 0] * 2
    y.relu_()
    return y, row, column


def built_from_parts(linear: nn.Module, x: Tensor) -> Any:
    y = torch.zeros(x.shape)
    y[0] = linear(x)[0]
    y.view(-1)[2:].narrow(0, 0, 3).copy_(x[1].double())
    first = y[0, 1:]
    y.mul_(2)
    return y, first


def input_and_its_parts(linear: nn.Module, x: Tensor) -> Any:
    x[1:].zero_()
    x.diagonal().add_(1)
    return linear(x), x[0]


def without_grad_where_none_flow(linear: nn.Module, x: Tensor) -> Any:
    with torch.no_grad():
        y = x * 2
        y[0].add_(1)
    y[1].mul_(linear(x)[1])
    z = linear(x)
    with torch.no_grad():
        shown = z.clone()
        shown[0].zero_()
        lost = linear(x)
        lost.t()[0].fill_(2.0)
    return y, z + shown + lost


WRITING = [rows_and_columns, built_from_parts, input_and_its_parts, without_grad_where_none_flow]


@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("forward", WRITING)
def test_writes_through_views_have_the_gradients_of_eager(
    session: Session, forward: Callable[..., Any], *, is_dynamic: bool
) -> None:
    module = Layered(forward)
    twin = copy.deepcopy(module)
    dynamic = {"dynamic_shapes": {"x": {0: Dim.AUTO}}} if is_dynamic else {}
    program = session.capture(module, (torch.randn(3, 3),), pre_dispatch=True, **dynamic)
    assert not any(node.target is aten.copy_.default for node in program.graph.nodes)
    numbers = torch.randn(5 if is_dynamic else 3, 3)
    seen = []
    for function, owner in ((program, module), (twin, twin)):
        leaf = numbers.clone().requires_grad_()
        given = leaf * 1
        results = function(given)
        sum((each * each).sum() for each in results).backward()
        gradients = [leaf.grad, *(each.grad for each in owner.parameters())]
        seen.append([*results, given, *gradients])
    torch.testing.assert_close(*seen)
    exported = program.to_exported_program().run_decompositions().module(check_guards=False)
    torch.testing.assert_close(exported(numbers.clone()), twin(numbers.clone()))


def test_a_buffer_is_changed_through_views_with_gradients_off(session: Session) -> None:
    class Averaging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("average", torch.zeros(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.average[0].mul_(0.9).add_(x.mean(0))
                self.average[1] = x[0]
            return x * self.weight + self.average.sum(0)

    module = Averaging()
    twin = copy.deepcopy(module)
    program = session.capture(module, (torch.randn(4, 3),), pre_dispatch=True)
    for _ in range(2):
        given = torch.randn(4, 3)
        for function in (program, twin):
            function(given).square().sum().backward()
        torch.testing.assert_close(module.average, twin.average)
        torch.testing.assert_close(module.weight.grad, twin.weight.grad)


def changed_without_grad(linear: nn.Module, x: Tensor) -> Tensor:
    y = linear(x)
    with torch.no_grad():
        y.add_(1)
    return y


def changed_while_detached(linear: nn.Module, x: Tensor) -> Tensor:
    y = linear(x)
    y.detach().add_(1)
    return y


def parameter_changed(linear: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        linear.weight[0].mul_(0.5)
    return linear(x)


@pytest.mark.parametrize(
    "forward", [changed_without_grad, changed_while_detached, parameter_changed]
)
def test_a_write_that_gradients_flow_past_is_refused_with_its_line(
    session: Session, forward: Callable[..., Any]
) -> None:
    with pytest.raises(UnsupportedError, match="gradients flow through it later") as raised:
        session.capture(Layered(forward), (torch.randn(2, 3),), pre_dispatch=True)
    assert raised.value.location is not None
    lines = range(forward.__code__.co_firstlineno + 2, forward.__code__.co_firstlineno + 4)
    assert raised.value.location.line in lines
    assert "without pre_dispatch" in raised.value.hint


def test_a_write_that_no_new_value_can_stand_for_is_refused(session: Session) -> None:
    def function(x: Tensor) -> Tensor:
        y = x * 2
        with torch.no_grad():
            halves = y.clone().chunk(2)
            halves[0].add_(1)
        return halves[1] + halves[0]

    with pytest.raises(UnsupportedError, match="through") as raised:
        session.capture(function, (torch.randn(4, 3),), pre_dispatch=True)
    assert raised.value.location is not None
    assert raised.value.location.line == function.__code__.co_firstlineno + 4


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
