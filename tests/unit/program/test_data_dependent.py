"""Programs with sizes or numbers that are only known when they run, and torch's own regions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import map as torch_map
from torch._higher_order_ops import scan, while_loop

import hopyard
from hopyard.errors import ArtifactError, DataDependentError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session(discover=False)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: self.linear(y), lambda y: y * 2, (x,))


def number(x: Tensor) -> Any:
    count = x.abs().sum().int().item()
    return x * count, count, x.sum().item() * 2


def positions(x: Tensor) -> Any:
    found = x.nonzero()
    return found, found.shape[0], x[x > 0] + 1


def positions_changed(x: Tensor) -> Any:
    found = x.nonzero()
    found.mul_(2)
    x.add_(found.shape[0])
    return found, torch.zeros(found.shape[0] * 3).fill_(2)


def loop(x: Tensor) -> Any:
    start = torch.zeros((), dtype=torch.int64)
    return while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * 2), (start, x))


def rows(x: Tensor) -> Tensor:
    return torch_map(lambda row, factor: row * factor, x, torch.arange(4.0))


PROGRAMS: list[Callable[[], Callable[..., Any]]] = [
    Branching,
    lambda: number,
    lambda: positions,
    lambda: positions_changed,
    lambda: loop,
    lambda: rows,
]


@pytest.mark.parametrize("make", PROGRAMS)
def test_it_is_right_for_other_data_captured_exported_and_saved(
    session: hopyard.Session, tmp_path: Path, make: Callable[[], Callable[..., Any]]
) -> None:
    function = make()
    with torch.no_grad():
        program = session.capture(function, (torch.ones(3, 4),))
        exported = program.to_exported_program()
        exported.validate()
        program.save(tmp_path / "it.pt2")
        versions = [
            program,
            session.load(tmp_path / "it.pt2"),
            session.from_exported_program(exported),
            exported.module(check_guards=False),
            exported.run_decompositions().module(check_guards=False),
        ]
        for given in (torch.ones(3, 4), -torch.eye(3, 4), torch.zeros(3, 4)):
            expected = function(given.clone())
            for version in versions:
                assert same(version(given.clone()), expected)
    back = versions[2]
    assert str(back.graph) == str(program.graph)
    assert back.range_constraints == program.range_constraints


def same(first: Any, second: Any) -> bool:
    torch.testing.assert_close(first, second)
    return True


def test_a_promise_about_a_number_is_kept_by_the_program(
    session: hopyard.Session, tmp_path: Path
) -> None:
    def function(x: Tensor) -> Tensor:
        count = x.sum().int().item()
        torch._check(count > 2)
        return torch.ones(count)

    program = session.capture(function, (torch.ones(3),))
    program.save(tmp_path / "it.pt2")
    for version in (program, session.load(tmp_path / "it.pt2")):
        assert version(torch.full((3,), 2.0)).tolist() == [1] * 6
        with pytest.raises(RuntimeError, match="Runtime assertion failed"):
            version(torch.zeros(3))


def test_a_branch_on_data_names_the_line(session: hopyard.Session) -> None:
    def function(x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x

    with pytest.raises(DataDependentError) as raised:
        session.capture(function, (torch.ones(3),))
    assert raised.value.location is not None
    assert raised.value.location.line == function.__code__.co_firstlineno + 1
    assert "torch.cond" in raised.value.hint


@pytest.mark.parametrize("function", [lambda x: (), lambda x: x.sum().item() > 2])
def test_results_that_torch_does_not_write_are_refused(
    session: hopyard.Session, tmp_path: Path, function: Callable[..., Any]
) -> None:
    program = session.capture(function, (torch.ones(3),))
    assert program(torch.ones(3)) == function(torch.ones(3))
    with pytest.raises(ArtifactError, match="torch writes no such"):
        program.save(tmp_path / "it.pt2")
    assert list(tmp_path.iterdir()) == []


def scanned(x: Tensor) -> Any:
    def step(total: Tensor, row: Tensor) -> Any:
        return total + row * x.shape[0], row * total

    return scan(step, x[0], x)


@pytest.mark.parametrize("make", [Branching, lambda: loop, lambda: rows, lambda: scanned])
def test_a_region_that_dynamo_has_seen_with_other_sizes(
    session: hopyard.Session, tmp_path: Path, make: Callable[[], Callable[..., Any]]
) -> None:
    model = make()
    torch._dynamo.reset()
    with torch.no_grad():
        first = session.capture(model, (torch.ones(3, 4),))
        for size in (2, 3, 5):
            model(torch.ones(size, 4))
            session.capture(model, (torch.ones(size, 4),))
        program = session.capture(model, (torch.ones(3, 4),))
        assert program == first
        program.save(tmp_path / "it.pt2")
        given = -torch.ones(3, 4)
        torch.testing.assert_close(session.load(tmp_path / "it.pt2")(given), model(given))


def test_a_number_that_two_branches_read_is_written_into_both(session: hopyard.Session) -> None:
    def function(x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda y: y + x.shape[0], lambda y: y - x.shape[0], (x,))

    program = session.capture(function, (torch.ones(3, 4),))
    program.to_exported_program().validate()
    for given in (torch.ones(3, 4), -torch.ones(3, 4)):
        assert program(given).equal(given + 3 if given.sum() > 0 else given - 3)
