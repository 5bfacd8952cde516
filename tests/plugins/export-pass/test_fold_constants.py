"""`fold-constants`: what depends on constants alone is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hopyard import Program, Session
from hopyard.errors import OptionError
from hopyard.pipeline import origin_of
from hopyard.verify import verify

aten = torch.ops.aten
Capture = Callable[..., Program]
X = torch.linspace(-1, 1, 12).reshape(3, 4)


def count(program: Program, target: object) -> int:
    return len(program.graph.find_nodes(op="call_function", target=target))


class Scaled(nn.Module):
    """A weight that is made of a parameter, a buffer that is fixed and one that counts."""

    mask: Tensor
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("mask", torch.ones(4, 4).tril())
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x @ (self.weight * self.mask).softmax(0).t() + self.calls.exp()


def test_parameters_are_folded_only_if_they_are_frozen(session: Session, capture: Capture) -> None:
    model = Scaled()
    program = capture(model, X)
    plain = session.run("fold-constants", program)
    assert plain.records[0].modified is False
    assert plain.program is not program
    frozen = session.run("fold-constants{freeze=true}", program).program
    assert count(frozen, aten._softmax.default) == count(frozen, aten.mul.Tensor) == 0
    assert count(frozen, aten.exp.default) == 1
    assert list(frozen.state) == ["calls"]
    expected = X @ (model.weight * model.mask).softmax(0).t()
    for calls in (1.0, 2.0):
        torch.testing.assert_close(frozen(X), expected + torch.tensor(calls).exp())
    assert model.calls == 2.0
    verify(frozen.graph_module, propagate=True)


def test_the_given_program_and_its_module_stay(session: Session, capture: Capture) -> None:
    model = Scaled()
    program = capture(model, X)
    before = (program.print_readable(), dict(program.state), dict(program.constants))
    session.run("fold-constants{freeze=true}", program)
    assert (program.print_readable(), program.state, program.constants) == before
    with torch.no_grad():
        model.weight.zero_()
        model.calls.zero_()
        expected = Scaled.forward(model, X)
        model.calls.zero_()
    torch.testing.assert_close(program(X), expected)


def test_constants_are_folded_and_tell_where_they_come_from(
    session: Session, capture: Capture
) -> None:
    def function(x: Tensor) -> Tensor:
        table = torch.tensor([1.0, 2.0, 3.0, 4.0])
        return x * (table.sin() + table.cos()).view(1, 4)

    program = capture(function, X)
    result = session.run("fold-constants", program).program
    assert [node.target for node in result.graph.nodes if node.op == "call_function"] == [
        aten.view.default,
        aten.mul.Tensor,
    ]
    (constant,) = [node for node in result.graph.nodes if "folded" in node.name]
    origin = origin_of(constant)
    assert origin is not None
    assert origin.nodes == ("add",)
    assert "stack_trace" in constant.meta
    torch.testing.assert_close(result(X), function(X))


def test_what_costs_nothing_is_left(session: Session, capture: Capture) -> None:
    def function(x: Tensor) -> Tensor:
        return x + torch.arange(4) + torch.zeros(3, 1)

    assert not session.run("fold-constants", capture(function, X)).records[0].modified
    model = nn.Linear(4, 4)
    program = capture(model, X)
    frozen = session.run("fold-constants{freeze=true}", program).program
    assert count(frozen, aten.t.default) == 1
    assert set(frozen.state) == {"weight", "bias"}


def test_what_is_made_of_nothing_is_folded_with_what_uses_it(
    session: Session, capture: Capture
) -> None:
    def function(x: Tensor) -> Tensor:
        return x * torch.arange(4).float().neg().exp()

    result = session.run("fold-constants", capture(function, X)).program
    assert count(result, aten.arange.default) == count(result, aten.exp.default) == 0
    torch.testing.assert_close(result(X), function(X))


def test_large_results_of_small_operands_stay(session: Session, capture: Capture) -> None:
    def function(x: Tensor) -> Tensor:
        return x + torch.ones(1).neg().repeat(64, 1).sum()

    program = capture(function, X)
    for largest, left in ((255, 1), (256, 0)):
        result = session.run(f"fold-constants{{largest={largest}}}", program).program
        assert count(result, aten.repeat.default) == left
        torch.testing.assert_close(result(X), function(X))
    with pytest.raises(OptionError, match="size"):
        session.pipeline("fold-constants{largest=-1}")


def test_random_numbers_and_reads_stay(session: Session, capture: Capture) -> None:
    def function(x: Tensor) -> Tensor:
        table = torch.tensor([1.0, 2.0, 3.0, 4.0])
        return x + torch.bernoulli(table / 8) + torch.rand(4) + table.nonzero().sum()

    program = capture(function, X)
    result = session.run("fold-constants", program).program
    assert count(result, aten.nonzero.default) == 1
    torch.manual_seed(1)
    expected = program(X)
    torch.manual_seed(1)
    torch.testing.assert_close(result(X), expected)


def test_what_a_caller_may_write_to_is_made_anew(session: Session, capture: Capture) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table = torch.tensor([1.0, 2.0, 3.0, 4.0])
        return table.sin(), (table.cos() + 1).view(2, 2), x + table.exp()

    program = session.run("fold-constants", capture(function, X)).program
    assert count(program, aten.exp.default) == 0
    for _ in range(2):
        results = program(X)
        torch.testing.assert_close(results, function(X))
        for result in results:
            result.zero_()


def test_buffers_that_the_program_writes_are_no_constants(
    session: Session, capture: Capture
) -> None:
    class Counting(nn.Module):
        count: Tensor
        other: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(4))
            self.register_buffer("other", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            result = x + self.count.exp() + self.other.exp()
            self.count.add_(1)
            return result

    model, again = Counting(), Counting()
    program = session.run("fold-constants{freeze=true}", capture(model, X)).program
    assert count(program, aten.exp.default) == 1
    for _ in range(3):
        torch.testing.assert_close(program(X), again(X))


def test_tied_parameters_stay_one_tensor(session: Session, capture: Capture) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x)) + self.first.weight.abs().sum()

    model = Tied()
    program = session.run("fold-constants{freeze=true}", capture(model, X)).program
    assert count(program, aten.abs.default) == 0
    assert len({tensor.data_ptr() for tensor in program.state.values()}) == 1
    torch.testing.assert_close(program(X), model(X))


def test_results_of_several_values_are_folded(session: Session, capture: Capture) -> None:
    def function(x: Tensor) -> Tensor:
        values, indices = torch.tensor([3.0, 1.0, 2.0, 4.0]).sort()
        return x * values + indices

    result = session.run("fold-constants", capture(function, X)).program
    assert count(result, aten.sort.default) == 0
    torch.testing.assert_close(result(X), function(X))


def test_surroundings_do_not_matter(session: Session, capture: Capture) -> None:
    program = capture(Scaled(), X)
    expected = session.run("fold-constants{freeze=true}", program).program
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        found = session.run("fold-constants{freeze=true}", program).program
    (ours,) = found.constants.values()
    (theirs,) = expected.constants.values()
    assert ours.dtype is torch.float32
    assert not ours.is_inference()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_folded_program_is_saved_and_exported(
    session: Session, capture: Capture, tmp_path: Path
) -> None:
    model = Scaled()
    program = session.run("fold-constants{freeze=true}", capture(model, X)).program
    program.save(tmp_path / "folded.pt2")
    loaded = session.load(tmp_path / "folded.pt2")
    again = session.run("fold-constants{freeze=true}", program)
    assert not again.records[0].modified
    first = program(X)
    torch.testing.assert_close(loaded(X), first)
    model.calls.zero_()
    torch.testing.assert_close(program.to_exported_program().module()(X), first)


def test_every_kind_of_program_keeps_its_numbers(
    session: Session, capture: Capture, case: tuple[Callable[..., Any], tuple[Any, ...]]
) -> None:
    target, inputs = case
    expected = copy.deepcopy(target)(*inputs)
    result = session.run("fold-constants{freeze=true},dce", capture(target, *inputs)).program
    torch.testing.assert_close(result(*inputs), expected)
