"""What a body takes from around it becomes an operand; nothing is frozen in the graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.errors import UnsupportedError
from hopyard.hops import Operator, bind

Make = Callable[..., Callable[..., GraphModule]]

SYMBOLIC: dict[str, Make] = {
    "ours": functools.partial(hopyard.make_fx, tracing_mode="symbolic"),
    "torch": functools.partial(torch_make_fx, tracing_mode="symbolic"),
}
symbolic = pytest.mark.parametrize("make", SYMBOLIC.values(), ids=SYMBOLIC)
TRACERS: dict[str, Make] = {
    f"{name}-{mode}": functools.partial(make, tracing_mode=mode)
    for name, make in (("ours", hopyard.make_fx), ("torch", torch_make_fx))
    for mode in ("real", "fake", "symbolic")
}
tracers = pytest.mark.parametrize("make", TRACERS.values(), ids=TRACERS)


def assert_same_for_other_sizes(make: Make, function: Callable[..., Any]) -> GraphModule:
    graph_module = make(function)(torch.randn(3), torch.ones(5))
    for x, y in ((torch.randn(4), torch.ones(7)), (torch.randn(6), torch.ones(2))):
        torch.testing.assert_close(graph_module(x, y), function(x, y))
    return graph_module


NUMBERS: dict[str, Callable[[Operator, Tensor, Tensor], Any]] = {
    "size": lambda hop, x, y: hop(lambda v: v * y.shape[0], x),
    "computed": lambda hop, x, y: (
        hop(lambda n, v: v.new_zeros(n * 2).sum() + v, 3, x) * (y.shape[0] * 2 + 1)
    ),
    "several": lambda hop, x, y: _several(hop, x, y),
    "nested": lambda hop, x, y: _nested(hop, x, y),
    "with-a-tensor": lambda hop, x, y: hop(lambda v: v * y.sum() + y.shape[0], x),
    "in-a-list": lambda hop, x, y: hop(lambda pair: pair[0] * y.shape[0] + y.sum(), [x, y]),
    "number-of-elements": lambda hop, x, y: hop(lambda v: v * y.reshape(-1, 1).sum(), x),
    "flat-square": lambda hop, x, y: hop(
        lambda: (x[:, None] * x).reshape(-1).sum() + torch.outer(y, y).reshape(-1).sum()
    ),
    "nothing-else": lambda hop, x, y: hop(lambda: torch.ones(y.shape[0])),
}


def _several(hop: Operator, x: Tensor, y: Tensor) -> Tensor:
    count, twice = y.shape[0], y.shape[0] * 2
    return hop(lambda v: v.new_ones(twice).sum() * count + v * (count + 3), x)


def _nested(hop: Operator, x: Tensor, y: Tensor) -> Tensor:
    count = y.shape[0]
    return hop(lambda v: hop(lambda w: w * count, v + 1), x)


@symbolic
@pytest.mark.parametrize("name", NUMBERS)
def test_symbolic_numbers(make: Make, name: str, region: Operator) -> None:
    assert_same_for_other_sizes(make, lambda x, y: NUMBERS[name](region, x, y))


@symbolic
def test_a_number_that_only_the_data_tells(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        count = y.sum().to(torch.int64).item()
        return region(lambda v: v * count, x)

    assert_same_for_other_sizes(make, function)


@symbolic
def test_symbolic_numbers_in_a_gradient(make: Make, define: Any) -> None:
    plain = bind(define())

    def function(x: Tensor, y: Tensor) -> Tensor:
        count = y.shape[0]
        x = x.detach().requires_grad_()
        result = plain(lambda v: (v * v * count).sum() * y.sum(), x)
        return torch.autograd.grad(result, x)[0]

    graph_module = assert_same_for_other_sizes(make, function)
    assert len(graph_module.graph.find_nodes(op="call_function", target=plain)) >= 1


def test_an_exported_program_takes_the_size_of_another_input(region: Operator) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return region(lambda v: self.layer(v) * y.shape[0] + y.sum(), x)

    model = Model()
    dynamic = {"x": None, "y": {0: torch.export.Dim("count", min=2)}}
    program = torch.export.export(
        model, (torch.randn(3, 4), torch.ones(5)), dynamic_shapes=dynamic, strict=False
    )
    given = torch.randn(3, 4), torch.ones(9)
    torch.testing.assert_close(program.module()(*given), model(*given))
    assert len(program.graph_module.graph.find_nodes(op="call_function", target=region)) == 1
    assert not program.constants


@tracers
def test_bodies_of_every_kind(make: Make, region: Operator) -> None:
    class Scale:
        def __init__(self, by: Tensor) -> None:
            self.by = by

        def method(self, v: Tensor) -> Tensor:
            return v * self.by

        def __call__(self, v: Tensor) -> Tensor:
            return v + self.by

    class Layer(nn.Module):
        def __init__(self, by: Tensor) -> None:
            super().__init__()
            self.by = by

        def forward(self, v: Tensor) -> Tensor:
            return v / self.by

    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        hidden = y.exp()
        bodies = (
            lambda v: v - hidden,
            Scale(hidden).method,
            Scale(hidden),
            Layer(hidden),
            functools.partial(torch.add, hidden, alpha=2),
            functools.partial(Scale(hidden).method),
        )
        return [region(body, x) for body in bodies]

    graph_module = make(function)(torch.ones(3), torch.ones(3))
    x, y = torch.randn(3), torch.randn(3)
    torch.testing.assert_close(graph_module(x, y), function(x, y))
    for call in graph_module.graph.find_nodes(op="call_function", target=region):
        assert len(call.args) == 3


@tracers
def test_an_operator_of_a_fixed_number_of_operands(make: Make, define: Any) -> None:
    fixed = bind(define(lambda body, x, *, factor=2.0: factor * body(x)))

    def function(x: Tensor, y: Tensor) -> Tensor:
        hidden = y * 2
        return fixed(lambda v: v * hidden, x)

    with pytest.raises(UnsupportedError, match="'hidden'") as raised:
        make(function)(torch.ones(3), torch.ones(3))
    assert raised.value.plugin is not None
    assert "operand" in raised.value.hint
    given = torch.randn(3)
    graph_module = make(lambda x: fixed(torch.sin, x, factor=3.0))(torch.ones(3))
    torch.testing.assert_close(graph_module(given), 3 * given.sin())


@tracers
def test_a_written_capture_is_refused_by_name(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        running = y.clone()
        return region(lambda v: v * running.add_(1), x) + running

    with pytest.raises(UnsupportedError, match="'running'") as raised:
        make(function)(torch.ones(3), torch.ones(3))
    assert raised.value.location is not None
    assert raised.value.location.file == __file__


def _after(region: Operator, x: Tensor) -> Tensor:
    aside: list[Tensor] = []
    result: Tensor = region(lambda v: (aside.append(v.sin()), v * 2)[1], x)
    return result + aside[-1]


def _in_the_next_region(region: Operator, x: Tensor) -> Tensor:
    aside: list[Tensor] = []
    result: Tensor = region(lambda v: (aside.append(v.sin()), v * 2)[1], x)
    return result + region(lambda v: v + aside[0], x)


def _at_the_end(region: Operator, x: Tensor) -> Tensor:
    aside: list[Tensor] = []
    region(lambda v: (aside.append(v.sin()), v * 2)[1], x)
    return aside[-1]


@pytest.mark.parametrize("function", [_after, _in_the_next_region, _at_the_end])
@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_a_tensor_that_a_body_puts_aside_is_refused(
    mode: str, function: Callable[..., Tensor], region: Operator
) -> None:
    captured = functools.partial(function, region)
    with pytest.raises(UnsupportedError, match="put aside; return the tensor from the body"):
        hopyard.make_fx(captured, tracing_mode=mode)(torch.ones(3))


def test_a_tensor_that_a_body_puts_aside_and_replaces_is_no_matter(region: Operator) -> None:
    aside: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        aside.clear()
        aside.append(x.cos())
        region(lambda v: (aside.append(v.sin()), v * 2)[1], x)
        result: Tensor = aside[0] + region(torch.sin, x)
        return result

    graph_module = hopyard.make_fx(function, tracing_mode="fake")(torch.ones(3))
    x = torch.randn(3)
    torch.testing.assert_close(graph_module(x), function(x))
