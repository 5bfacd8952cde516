"""What a program cannot ask of symbols, or promise of them: who, what, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

import hopyard
from hopyard.errors import CaptureError, DataDependentError, UnsupportedError, UsageError


def number_in(x: Tensor) -> Any:
    return (x + 0).item()


def branches(x: Tensor) -> Tensor:
    return x + 1 if number_in(x) > 3 else x - 1


def branches_and_goes_on(x: Tensor) -> Tensor:
    try:
        if number_in(x) > 3:
            return x + 1
    except GuardOnDataDependentSymNode:
        pass
    return x - 1


def specializes(x: Tensor) -> Tensor:
    return x + int(number_in(x))


def indexes(x: Tensor) -> Tensor:
    return torch.arange(9)[: [1, 2, 3][number_in(x)]]


@pytest.mark.parametrize("function", [branches, branches_and_goes_on, specializes, indexes])
def test_a_decision_by_a_number_without_a_value(function: Callable[..., Any]) -> None:
    with pytest.raises(DataDependentError, match=r"u0 .*_local_scalar_dense") as raised:
        hopyard.make_fx(function, tracing_mode="symbolic")(torch.tensor(4))
    assert "torch._check" in raised.value.hint
    assert raised.value.location is not None
    assert raised.value.location.file == __file__
    assert raised.value.location.function == function.__name__
    assert isinstance(raised.value.__cause__, GuardOnDataDependentSymNode)
    assert raised.value.partial_graph is not None
    assert "_local_scalar_dense" in [node.name for node in raised.value.partial_graph.nodes]


def test_a_promise_decides() -> None:
    def function(x: Tensor) -> Tensor:
        number = number_in(x)
        torch._check(number >= 5)
        return x + 1 if number > 3 else x - 1

    graph_module = hopyard.make_fx(function, tracing_mode="symbolic")(torch.tensor(6))
    assert "sub" not in graph_module.code


def test_what_torch_asks_and_catches_itself_refuses_nothing() -> None:
    def function(x: Tensor) -> Tensor:
        number = number_in(x)
        torch._check(number >= 2)
        return torch.zeros(number, 3).reshape(-1).view(number, 3).expand(number, 3)

    hopyard.make_fx(function, tracing_mode="symbolic")(torch.tensor(6))


def impossible(x: Tensor) -> Tensor:
    torch._check(x.shape[0] == 7)
    return x + 1


def contradicts(x: Tensor) -> Tensor:
    number = number_in(x.sum().long())
    torch._check(number >= 5)
    torch._check(number < 3)
    return torch.zeros(number)


def leaves_its_range(x: Tensor) -> Tensor:
    number = number_in(x.sum().long())
    torch.sym_constrain_range(number, min=2, max=5)
    torch._check(number > 8)
    return torch.zeros(number)


@pytest.mark.parametrize(
    ("function", "promise", "known"),
    [
        (impossible, r"Eq\(s\d+, 7\)", r"s\d+ is 4 in the example"),
        (contradicts, "u0 < 3", "u0 is from 5"),
        (leaves_its_range, "u0 > 8", "u0 is from 2 to 5"),
    ],
)
def test_a_promise_that_cannot_be(function: Callable[..., Any], promise: str, known: str) -> None:
    with pytest.raises(CaptureError, match=f"promises {promise}, .*{known}") as raised:
        hopyard.make_fx(function, tracing_mode="symbolic")(torch.ones(4))
    assert raised.value.location is not None
    assert raised.value.location.function == function.__name__
    assert "torch._check" in raised.value.hint
    assert raised.value.partial_graph is not None


def test_a_number_from_elsewhere_names_the_missing_symbol() -> None:
    fake = FakeTensorMode(shape_env=ShapeEnv())
    given, hidden = fake.from_tensor(torch.ones(4, 5)), fake.from_tensor(torch.ones(7, 9))
    size = hidden.shape[0] * 2

    def function(x: Tensor) -> Tensor:
        return torch.ones(size) + x[0, 0]

    missing = str(hidden.shape[0])
    with pytest.raises(UnsupportedError, match=f"no input or operator gives {missing}") as raised:
        hopyard.make_fx(function, tracing_mode="symbolic")(given)
    assert raised.value.location is not None
    assert raised.value.location.function.endswith("function")
    assert raised.value.partial_graph is not None


def test_a_fake_mode_without_symbols() -> None:
    inputs = FakeTensorMode().from_tensor(torch.ones(4))
    with pytest.raises(UsageError, match="no symbols") as raised:
        hopyard.make_fx(torch.sin, tracing_mode="symbolic")(inputs)
    assert "ShapeEnv" in raised.value.hint


@pytest.mark.parametrize("function", [branches, branches_and_goes_on])
def test_a_refusal_leaves_the_symbols_as_they_were(function: Callable[..., Any]) -> None:
    shape_env = ShapeEnv()
    fake = FakeTensorMode(shape_env=shape_env)
    with pytest.raises(DataDependentError):
        hopyard.make_fx(function, tracing_mode="symbolic")(fake.from_tensor(torch.tensor(4)))
    assert "evaluate_sym_node" not in vars(shape_env)
