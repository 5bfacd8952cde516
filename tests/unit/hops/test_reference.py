"""torch's own operators of the kind, where they are right, record and compute the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._higher_order_ops.base_hop import BaseHOP
from torch._higher_order_ops.strict_mode import strict_mode
from torch.fx import GraphModule, symbolic_trace
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.hops import Operator, _captures, _function_modes, bind, is_eager


class Reference(BaseHOP):
    def __init__(self) -> None:
        super().__init__("hop_tests_reference")

    def __call__(self, subgraph: Any, *operands: Any, **config: Any) -> Any:
        return super().__call__(subgraph, *operands, **config)


REFERENCE = Reference()

BODIES: dict[str, Callable[..., Any]] = {
    "arithmetic": lambda v, w: ((v * w).sin() + v,),
    "matrices": lambda v, w: (torch.relu(v @ w.t()), v.sum(0)),
    "unused": lambda v, w: (v.exp(),),
    "views-within": lambda v, w: (v.t().reshape(-1)[2:] * w.reshape(-1)[2:],),
}


@pytest.fixture
def plain(define: Any) -> Operator:
    return bind(define())


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)


def call_of(graph_module: GraphModule, operator: Any) -> Any:
    return graph_module.graph.find_nodes(op="call_function", target=operator)[0]


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("make", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch"])
@pytest.mark.parametrize("name", BODIES)
def test_the_call_is_recorded_as_torchs_is(
    name: str, make: Callable[..., Any], mode: str, plain: Operator
) -> None:
    body = symbolic_trace(BODIES[name])
    recorded = []
    for operator in (plain, REFERENCE):
        graph_module = make(lambda x, y: operator(body, x, y, how=3), tracing_mode=mode)(  # noqa: B023
            *(value.detach() for value in inputs())
        )
        call = call_of(graph_module, operator)
        traced = getattr(graph_module, call.args[0].target)
        recorded.append((traced.code, [str(arg) for arg in call.args[1:]], dict(call.kwargs)))
    assert recorded[0] == recorded[1]


@pytest.mark.parametrize("name", BODIES)
def test_gradients_are_those_of_torchs(name: str, plain: Operator) -> None:
    body = symbolic_trace(BODIES[name])
    given = inputs()
    found = []
    for operator in (plain, REFERENCE):

        def step(x: Tensor, y: Tensor) -> Any:
            results = operator(body, x, y)  # noqa: B023
            total = sum((result * result).sum() for result in results)
            return torch.autograd.grad(total, (x, y), allow_unused=True)

        graph_module = torch_make_fx(step, tracing_mode="fake")(*given)
        found.append([each for each in graph_module(*given) if each is not None])
    # BaseHOP returns zeros for an operand that has no gradient.
    theirs = [each for each in found[1] if len(found[0]) == len(found[1]) or each.any()]
    torch.testing.assert_close(found[0], theirs)


def test_values_are_those_of_torchs_strict_mode(plain: Operator) -> None:
    def program(call: Callable[..., Any]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, y: call(x, y)[0] * 2

    ours = program(lambda x, y: plain(BODIES["matrices"], x, y))
    torchs = program(lambda x, y: strict_mode(BODIES["matrices"], (x, y)))
    given = [value.detach() for value in inputs()]
    example = [value.detach() for value in inputs()]
    for make in (hopyard.make_fx, torch_make_fx):
        graphs = [make(program, tracing_mode="fake")(*example) for program in (ours, torchs)]
        torch.testing.assert_close(graphs[0](*given), graphs[1](*given))


def state() -> tuple[Any, ...]:
    return (
        _captures.looking.find,
        _function_modes._state.hidden,
        _function_modes._state.passing,
        torch.is_grad_enabled(),
        is_eager((torch.ones(1),)),
    )


@pytest.mark.parametrize("make", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch"])
@pytest.mark.parametrize("at", range(1, 4))
def test_an_error_in_a_body_leaves_nothing_behind(
    make: Callable[..., Any], at: int, plain: Operator
) -> None:
    """It may come when the call is looked at, when it is recorded, or later."""
    before = state()
    runs = []

    def body(v: Tensor) -> Tensor:
        runs.append(v)
        if len(runs) == at:
            raise KeyError("the body's own")
        return plain(torch.sin, v) * 2

    def step(x: Tensor) -> Any:
        return torch.autograd.grad(plain(body, x).sum(), x)

    with suppress(KeyError, hopyard.errors.HopyardError):
        make(step, tracing_mode="fake")(inputs()[0])
    assert state() == before
    x, _ = inputs()
    torch.testing.assert_close(plain(torch.sin, x), x.sin())


def test_threads_record_at_once(define: Any) -> None:
    operators = [bind(define()) for _ in range(4)]
    barrier = threading.Barrier(4)

    def record(operator: Operator) -> bool:
        barrier.wait(timeout=30)
        x, y = inputs()

        def step(x: Tensor, y: Tensor) -> Any:
            hidden = y.exp()
            result = operator(lambda v: operator(lambda w: w * hidden, v).sin(), x)
            return torch.autograd.grad(result.sum(), (x, y))

        graph_modules = [hopyard.make_fx(step, tracing_mode="fake")(x, y) for _ in range(5)]
        for graph_module in graph_modules:
            torch.testing.assert_close(graph_module(x, y), step(x, y))
        return len({graph_module.code for graph_module in graph_modules}) == 1

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(record, operators))
