"""Results share memory with operands as in eager, however inputs are laid out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import hopyard
from hopyard.errors import InputError
from hopyard.program import Program

KEPT = ["captured", "exported", "saved"]


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session(discover=False)


def kept(session: hopyard.Session, program: Program, how: str, folder: Path) -> Program:
    """Return the program as it is after a trip to `torch.export` or to a file."""
    if how == "exported":
        return session.from_exported_program(program.to_exported_program())
    if how == "saved":
        program.save(folder / "it.pt2")
        return session.load(folder / "it.pt2")
    return program


def itself(a: Tensor) -> Any:
    return a.add_(1)


def among_others(a: Tensor) -> Any:
    a.mul_(2)
    return {"row": a[1], "all": a, "columns": [a.t(), a[:, 1:]], "copy": a.clone()}


def detached(a: Tensor) -> Any:
    a.zero_()
    return a.detach(), a.view(-1)[2:]


def changed_twice(a: Tensor) -> Any:
    view = a[0]
    a.add_(1)
    view.mul_(2)
    return view, a


def only_read(a: Tensor) -> Any:
    return a, a.t(), a + 1


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize("function", [itself, among_others, detached, changed_twice, only_read])
def test_results_alias_an_input_as_in_eager(
    session: hopyard.Session, function: Callable[..., Any], how: str, tmp_path: Path
) -> None:
    program = session.capture(function, (torch.randn(2, 3),))
    program = kept(session, program, how, tmp_path)
    given, eager = torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3)
    results, expected = program(given), function(eager)
    # Whoever shares memory with the input sees what is written to it later.
    for value in (given, eager):
        value.copy_(torch.arange(10.0, 16.0).view(2, 3))
    for one, other in zip(leaves(results), leaves(expected), strict=True):
        assert (one is given) == (other is eager)
        assert one.stride() == other.stride()
        assert torch.equal(one, other)


def shortened(a: Tensor) -> Any:
    a.add_(1)
    return a[1:], a[:-1].t(), a.view(-1)[a.shape[0] :], a


@pytest.mark.parametrize("how", KEPT)
@pytest.mark.parametrize("function", [itself, among_others, changed_twice, only_read, shortened])
def test_results_alias_an_input_of_any_size(
    session: hopyard.Session, function: Callable[..., Any], how: str, tmp_path: Path
) -> None:
    shapes = {"a": {0: Dim("rows"), 1: Dim.AUTO}}
    program = session.capture(function, (torch.randn(4, 5),), dynamic_shapes=shapes)
    program = kept(session, program, how, tmp_path)
    for rows, columns in ((4, 5), (3, 7), (9, 4)):
        numbers = torch.arange(float(rows * columns)).view(rows, columns)
        given, eager = numbers.clone(), numbers.clone()
        results, expected = program(given), function(eager)
        for value in (given, eager):
            value.copy_(numbers + 10)
        for one, other in zip(leaves(results), leaves(expected), strict=True):
            assert (one is given) == (other is eager)
            assert one.stride() == other.stride()
            assert torch.equal(one, other)


def leaves(result: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(result)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("changed", torch.zeros(3))
        self.register_buffer("bound", torch.zeros(3))
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Any:
        self.changed.add_(x)
        self.changed.mul_(2)
        self.bound = self.bound + 1
        return self.changed, self.changed[1:], self.bound, self.weight


def test_state_that_is_changed_is_returned_itself_and_what_is_bound_anew_is_not(
    session: hopyard.Session,
) -> None:
    module = Counting()
    with torch.no_grad():
        program = session.capture(module, (torch.ones(3),))
        first = program(torch.ones(3))
        assert first[0] is module.changed
        assert first[3] is module.weight
        second = program(torch.ones(3))
    assert first[1].tolist() == second[1].tolist() == [6, 6]
    assert (first[2].tolist(), second[2].tolist()) == ([1] * 3, [2] * 3)
    assert module.bound.tolist() == [2] * 3


def test_a_changed_input_that_carries_gradients_is_returned_with_them(
    session: hopyard.Session,
) -> None:
    weight = torch.ones(2, requires_grad=True)
    program = session.capture(lambda a, w: a.mul_(w), (torch.ones(2), torch.ones(2)))
    given = torch.tensor([2.0, 3.0])
    program(given, weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2, 3]
    assert given.tolist() == [2, 3]


def flattened(a: Tensor, b: Tensor) -> Tensor:
    return a.flatten() + b.view(-1) * 2


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda a: a.t().contiguous().t(),
    "strided": lambda a: torch.stack([a, a], -1)[..., 0],
    "offset": lambda a: torch.cat([a[:1], a])[1:],
    "expanded": lambda a: a[:1].expand(2, 3),
}


@pytest.mark.parametrize("example", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_input_may_be_laid_out_in_another_way_than_the_example(
    session: hopyard.Session, example: str, layout: str
) -> None:
    def function(a: Tensor) -> Any:
        return a.reshape(-1)[2:] * 2, (a * 1).flatten(), a.t().sum(0)

    program = session.capture(function, (LAYOUTS[example](torch.randn(2, 3)),))
    given = LAYOUTS[layout](torch.randn(2, 3)).detach()
    torch.testing.assert_close(program(given), function(given))


def test_the_gradient_of_an_input_in_another_layout(session: hopyard.Session) -> None:
    program = session.capture(flattened, (torch.randn(2, 3), torch.randn(2, 3)))
    given = torch.randn(3, 2, requires_grad=True)
    program(given.t(), torch.randn(2, 3)).sum().backward()
    assert given.grad is not None
    assert given.grad.tolist() == torch.ones(3, 2).tolist()


def test_a_change_reaches_an_input_in_another_layout(session: hopyard.Session) -> None:
    program = session.capture(itself, (torch.randn(2, 3),))
    base = torch.zeros(3, 2)
    assert program(base.t()) is not base
    assert base.tolist() == torch.ones(3, 2).tolist()


def test_an_input_that_is_returned_is_itself_in_any_layout(session: hopyard.Session) -> None:
    program = session.capture(lambda a: (a, a + 1), (torch.randn(2, 3),))
    given = torch.randn(3, 2).t()
    assert program(given)[0] is given


@pytest.mark.parametrize("function", [lambda a: a.view(-1), lambda a: (a.add_(1), a[0])])
def test_a_view_of_an_input_in_another_layout_is_refused(
    session: hopyard.Session, function: Callable[..., Any]
) -> None:
    program = session.capture(function, (torch.randn(2, 3),))
    given = torch.zeros(3, 2).t()
    with pytest.raises(InputError, match=r"view of a.*\(3, 1\).*\(1, 2\)"):
        program(given)
    assert given.tolist() == torch.zeros(2, 3).tolist()
