"""A program captured with gradients enabled has eager's gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hopyard


class Mixed(nn.Module):
    """Uses parameters once, twice and not at all, a frozen one, in-place operators and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.full((3,), 0.5), requires_grad=False)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.tanh(self.first(x)))
        y = y.clone()
        y[0].mul_(2)
        y.relu_()
        return (y * self.scale + self.frozen).softmax(-1) * x.detach() + y.detach() * x


MODULES: dict[str, Callable[[], nn.Module]] = {
    "mixed": Mixed,
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
    "dropout": lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)),
    "recurrent": lambda: nn.GRU(3, 3, batch_first=True),
    "attention": lambda: nn.TransformerEncoderLayer(3, 1, 4, dropout=0.0, batch_first=True),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2)),
}


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session()


def loss_of(result: object) -> Tensor:
    value = result[0] if isinstance(result, tuple) else result
    assert isinstance(value, Tensor)
    return (value * torch.arange(value.numel()).view_as(value)).sum()


def gradients(
    function: Callable[..., object], module: nn.Module, given: Tensor
) -> list[Tensor | None]:
    torch.manual_seed(5)
    module.zero_grad()
    given.grad = None
    loss_of(function(given)).backward()
    return [tensor.grad for tensor in [*module.parameters(), given]]


@pytest.mark.parametrize("name", MODULES)
def test_gradients_equal_eager(session: hopyard.Session, name: str) -> None:
    module = MODULES[name]()
    twin = copy.deepcopy(module)
    given = torch.randn(4, 2, 3) if name in ("recurrent", "attention") else torch.randn(4, 3)
    program = session.capture(module, (given.clone().requires_grad_(),))
    for _ in range(2):
        ours = gradients(program, module, given.clone().requires_grad_())
        theirs = gradients(twin, twin, given.clone().requires_grad_())
        for one, other in zip(ours, theirs, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other)


def test_an_example_without_gradients_serves_for_inputs_with(session: hopyard.Session) -> None:
    program = session.capture(lambda a: (a * a).sum(), (torch.ones(3),))
    given = torch.full((3,), 2.0, requires_grad=True)
    program(given).backward()
    assert given.grad.tolist() == [4, 4, 4]


def test_training_with_a_program_is_training_the_module(session: hopyard.Session) -> None:
    module, given = Mixed(), torch.randn(4, 3)
    twin = copy.deepcopy(module)
    program = session.capture(module, (given,))
    for function, owner in ((program, module), (twin, twin)):
        optimizer = torch.optim.SGD(owner.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(function(given)).backward()
            optimizer.step()
    for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(program(given), twin(given))


def test_a_closed_over_parameter_gets_its_gradient(session: hopyard.Session) -> None:
    weight = nn.Parameter(torch.full((3,), 2.0))
    program = session.capture(lambda a: (a * weight).sum(), (torch.ones(3),))
    program(torch.full((3,), 4.0)).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [4, 4, 4]


def test_a_buffer_that_gradients_need_may_change_afterwards(session: hopyard.Session) -> None:
    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            result = x * self.scale
            self.scale = self.scale + 1
            return result

    module, given = Scaling(), torch.ones(2, requires_grad=True)
    program = session.capture(module, (given,))
    program(given)
    program(given).sum().backward()
    assert given.grad.tolist() == [2, 2]
    assert module.scale.tolist() == [3, 3]


def test_gradients_of_gradients(session: hopyard.Session) -> None:
    program = session.capture(lambda a: (a**3).sum(), (torch.ones(2),))
    given = torch.tensor([1.0, 2.0], requires_grad=True)
    (first,) = torch.autograd.grad(program(given), given, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), given)
    assert second.tolist() == [6, 12]


def test_a_gradient_taken_inside_is_part_of_the_program(session: hopyard.Session) -> None:
    def slope(a: Tensor) -> Tensor:
        a = a.detach().requires_grad_()
        return torch.autograd.grad((a**3).sum(), a)[0]

    program = session.capture(slope, (torch.ones(2),))
    assert program(torch.tensor([1.0, 2.0])).tolist() == [3, 12]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_closed_over_module_is_exported_and_saved_like_another(
    session: hopyard.Session, tmp_path: Path
) -> None:
    linear, given = nn.Linear(3, 2), torch.randn(4, 3)
    program = session.capture(lambda a: linear(a), (given,))
    loss_of(program(given)).backward()
    ours = [parameter.grad for parameter in linear.parameters()]
    torch.testing.assert_close(gradients(linear, linear, given.clone())[:2], ours)
    exported = program.to_exported_program()
    program.save(tmp_path / "it.pt2")
    for function in (
        exported.module(check_guards=False),
        exported.run_decompositions().module(check_guards=False),
        session.load(tmp_path / "it.pt2"),
        copy.deepcopy(program),
    ):
        torch.testing.assert_close(function(given), linear(given))
