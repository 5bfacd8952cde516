"""Equality, guards and findings of programs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hopyard
from hopyard.program import Program


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session(discover=False)


class Model(nn.Module):
    def __init__(self, *, bias: bool = True, persistent: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2, bias=bias)
        self.register_buffer("count", torch.zeros(()), persistent=persistent)

    def forward(self, x: Tensor, scale: float = 2.0) -> Any:
        self.count.add_(1)
        return (
            torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y * 2, (self.linear(x),)) * scale
        )


def test_programs_of_the_same_code_are_equal_whatever_their_parameters(
    session: hopyard.Session, tmp_path: Path
) -> None:
    with torch.no_grad():
        first, second = (session.capture(Model(), (torch.randn(4, 3),)) for _ in range(2))
    first.save(tmp_path / "it.pt2")
    others = [
        second,
        copy.deepcopy(first),
        session.from_exported_program(first.to_exported_program()),
        session.load(tmp_path / "it.pt2"),
        first.with_graph(first.graph_module),
    ]
    for other in others:
        assert other == first
        assert hash(other) == hash(first)
    assert len({first, *others}) == 1


OTHERS: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "parameters": lambda: (Model(bias=False), (torch.randn(4, 3),)),
    "persistence": lambda: (Model(persistent=False), (torch.randn(4, 3),)),
    "shape": lambda: (Model(), (torch.randn(5, 3),)),
    "dtype of state": lambda: (Model().double(), (torch.randn(4, 3).double(),)),
    "number of inputs": lambda: (Model(), (torch.randn(4, 3), 2.0)),
    "number within": lambda: (Model(), (torch.randn(4, 3), 3.0)),
    "type of a number": lambda: (Model(), (torch.randn(4, 3), 2)),
    "structure": lambda: (lambda batch: Model()(*batch), ([torch.randn(4, 3)],)),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_programs_that_differ_are_not_equal(session: hopyard.Session, difference: str) -> None:
    with torch.no_grad():
        first = session.capture(Model(), (torch.randn(4, 3),))
        target, args = OTHERS[difference]()
        assert session.capture(target, args) != first
    assert first != "another thing"


def test_a_region_counts(session: hopyard.Session) -> None:
    def program(factor: float) -> Program:
        def function(x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y * factor, (x,))

        return session.capture(function, (torch.ones(2),))

    assert program(2.0) == program(2.0)
    assert program(2.0) != program(3.0)


def test_what_a_result_shares_memory_with_counts(session: hopyard.Session) -> None:
    def program(function: Callable[[Tensor], Any]) -> Program:
        return session.capture(function, (torch.ones(2, 2),))

    assert program(lambda a: a.add_(1)) != program(lambda a: a.add_(1).clone())


def test_guards_say_what_a_call_is_checked_for(session: hopyard.Session) -> None:
    def function(batch: dict[str, Tensor], n: int, name: str = "a") -> Tensor:
        return batch["x"] * n

    program = session.capture(function, ({"x": torch.ones(2, 3)}, 4))
    assert program.guards == ("batch['x']: float32[2, 3] on cpu", "n == 4")
