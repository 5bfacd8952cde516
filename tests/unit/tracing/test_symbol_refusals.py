"""What a program cannot ask of symbols, or promise of them: who, what, where, and what to do."""

from __future__ import annotations

import re
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


def branches_in_a_body(x: Tensor) -> Any:
    def body(x: Tensor) -> Any:
        try:
            return (x + 1,) if number_in(x) > 3 else (x * 3,)
        except Exception:  # noqa: BLE001
            return (x * 2,)

    return torch.ops.higher_order.cond(x > 0, body, lambda x: (x - 1,), (x,))


def asserts(x: Tensor) -> Tensor:
    number = number_in(x)
    assert number > 2
    return torch.ones(3) * number


def repeats(x: Tensor) -> Tensor:
    for _ in range(number_in(x)):
        x = x + 1
    return x


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (branches, r"torch._check\(u0 > 3\).*torch._check\(u0 >= 2\)"),
        (branches_and_goes_on, r"torch._check\(u0 > 3\)"),
        (asserts, r"torch._check\(u0 > 2\)"),
        (specializes, "pass it as an integer"),
        (indexes, "pass it as an integer"),
        (repeats, "pass it as an integer"),
    ],
)
def test_a_decision_by_a_number_without_a_value(
    function: Callable[..., Any], hint: str, pre_dispatch: bool
) -> None:
    reading = "item" if pre_dispatch else "_local_scalar_dense"
    with pytest.raises(DataDependentError, match=f"u0 .*{reading}") as raised:
        hopyard.make_fx(function, tracing_mode="symbolic", pre_dispatch=pre_dispatch)(
            torch.tensor(4)
        )
    assert re.search(hint, raised.value.hint)
    assert raised.value.location is not None
    assert raised.value.location.file == __file__
    assert raised.value.location.function == function.__name__
    assert isinstance(raised.value.__cause__, GuardOnDataDependentSymNode)
    assert raised.value.partial_graph is not None
    assert reading in [node.name for node in raised.value.partial_graph.nodes]


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_a_body_cannot_swallow_the_refusal(pre_dispatch: bool) -> None:
    with pytest.raises(DataDependentError, match="u0 > 3") as raised:
        hopyard.make_fx(branches_in_a_body, tracing_mode="symbolic", pre_dispatch=pre_dispatch)(
            torch.tensor(4)
        )
    assert raised.value.location is not None
    assert raised.value.location.function.endswith("body")
    assert raised.value.partial_graph is not None


def test_a_truth_value_has_no_range_to_declare() -> None:
    def function(x: Tensor) -> Tensor:
        return x if x > 3 else x + 1

    with pytest.raises(DataDependentError, match="u0 is from 0 to 1") as raised:
        hopyard.make_fx(function, tracing_mode="symbolic")(torch.tensor(4))
    assert ">= 2" not in raised.value.hint


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


def multiplied(x: Tensor, size: Any) -> Tensor:
    return torch.ones(size * 2) + x[0, 0]


def as_an_argument(x: Tensor, size: Any) -> Tensor:
    return x.new_zeros(size)


def added_in_vain(x: Tensor, size: Any) -> Tensor:
    _ = x.shape[0] + size
    return x


def multiplied_and_goes_on(x: Tensor, size: Any) -> Tensor:
    try:
        return x.new_zeros(size * 2)
    except Exception:  # noqa: BLE001
        return x


def added_and_goes_on(x: Tensor, size: Any) -> Tensor:
    try:
        count = size + x.shape[0]
    except Exception:  # noqa: BLE001
        count = 3
    return x.new_zeros(count)


def as_an_argument_and_goes_on(x: Tensor, size: Any) -> Tensor:
    try:
        return x.new_zeros(size)
    except Exception:  # noqa: BLE001
        return x


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize(
    "program",
    [
        multiplied,
        as_an_argument,
        added_in_vain,
        multiplied_and_goes_on,
        added_and_goes_on,
        as_an_argument_and_goes_on,
    ],
)
def test_a_number_from_elsewhere_names_the_missing_symbol(program: Any, pre_dispatch: bool) -> None:
    fake = FakeTensorMode(shape_env=ShapeEnv())
    given, hidden = fake.from_tensor(torch.ones(4, 5)), fake.from_tensor(torch.ones(7, 9))
    size = hidden.shape[0]

    def function(x: Tensor) -> Tensor:
        result: Tensor = program(x, size)
        return result

    with pytest.raises(UnsupportedError, match=f"no input or operator gives {size}") as raised:
        hopyard.make_fx(function, tracing_mode="symbolic", pre_dispatch=pre_dispatch)(given)
    assert raised.value.location is not None
    assert raised.value.location.function == program.__name__
    assert "pass it as an input" in raised.value.hint
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
