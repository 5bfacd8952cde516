"""Gradients of calls that a tracer records: the region is kept, and the gradient is autograd's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from functorch.compile import aot_module, make_boxed_func
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.utils.checkpoint import checkpoint

import hopyard
from hopyard.errors import UnsupportedError
from hopyard.hops import Operator, bind

Make = Callable[..., Callable[..., GraphModule]]

TRACERS: dict[str, Make] = {
    **{
        f"ours-{mode}": partial(hopyard.make_fx, tracing_mode=mode)
        for mode in ("real", "fake", "symbolic")
    },
    **{
        f"torch-{mode}": partial(torch_make_fx, tracing_mode=mode)
        for mode in ("real", "fake", "symbolic")
    },
}
tracers = pytest.mark.parametrize("make", TRACERS.values(), ids=TRACERS)


@pytest.fixture
def plain(define: Callable[..., Any]) -> Operator:
    """A region that does nothing but run its body."""
    return bind(define())


@pytest.fixture(params=["plain", "region"])
def hop(request: pytest.FixtureRequest) -> Operator:
    operator: Operator = request.getfixturevalue(request.param)
    return operator


class Doubled(torch.autograd.Function):
    """Its backward is not that of its forward, so that it shows who ran it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 10


def without_gradient(v: Tensor, w: Tensor) -> Tensor:
    with torch.no_grad():
        factor = v * 3
    return v * factor * w


def hooked(v: Tensor, w: Tensor) -> Tensor:
    product = v * w
    if product.requires_grad:
        product.register_hook(lambda gradient: gradient * 5)
    return product.sin()


BODIES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "arithmetic": lambda v, w: (v * w).sin() + v,
    "detached": lambda v, w: v.detach() * w * v,
    "without-gradient": without_gradient,
    "custom-function": lambda v, w: Doubled.apply(v * w),
    "hook": hooked,
    "in-place-within": lambda v, w: (v.clone().mul_(2) * w).relu_(),
    "written-through-a-view": lambda v, w: (t := v.clone(), t[0].mul_(w[0]), t * w)[2],
    "one-is-unused": lambda v, w: v.exp(),
    "checkpointed": lambda v, w: checkpoint(torch.mul, v, w, use_reentrant=False),
    "broadcast": lambda v, w: v[0] * w.sum(0, keepdim=True),
    "reshaped": lambda v, w: (v @ w.t()).reshape(-1) * 2,
    "dropout": lambda v, w: torch.dropout(v, 0.5, True) * w,
    "autocast": lambda v, w: _autocast(v, w),
}


def _autocast(v: Tensor, w: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return (v @ w.t()).float()


def leaves(count: int = 2) -> tuple[Tensor, ...]:
    return tuple(torch.randn(3, 4, requires_grad=True) for _ in range(count))


def assert_gradients(make: Make, function: Callable[..., Any], count: int = 2) -> GraphModule:
    """Compare the gradients that a captured training step computes with those of eager."""

    def step(*inputs: Tensor) -> list[Tensor]:
        found = torch.autograd.grad((function(*inputs) ** 2).sum(), inputs, allow_unused=True)
        return [each for each in found if each is not None]

    graph_module = make(step)(*leaves(count))
    fresh = leaves(count)
    torch.manual_seed(3)
    actual = graph_module(*fresh)
    torch.manual_seed(3)
    torch.testing.assert_close(actual, step(*fresh))
    return graph_module


def regions(graph_module: GraphModule, operator: Operator) -> int:
    return len(graph_module.graph.find_nodes(op="call_function", target=operator))


@tracers
@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("captures", [False, True], ids=["operands", "captured"])
def test_a_captured_training_step(make: Make, name: str, captures: bool, hop: Operator) -> None:
    body = BODIES[name]

    def function(x: Tensor, y: Tensor) -> Tensor:
        if captures:
            return hop(lambda v: body(v, y), x)
        return hop(body, x, y)

    graph_module = assert_gradients(make, function)
    if name != "dropout":
        assert regions(graph_module, hop) == 1 + hop.runs_its_body


@tracers
def test_only_a_captured_tensor_requires_grad(make: Make, hop: Operator) -> None:
    def function(x: Tensor) -> Tensor:
        hidden = x.exp()
        constant = torch.ones(3, 4)
        return hop(lambda v: v * hidden, constant) + hop(lambda: hidden * 2)

    assert_gradients(make, function, 1)


@tracers
def test_one_captured_tensor_is_computed_from_another(make: Make, hop: Operator) -> None:
    """The gradient by way of the second must reach the first once."""

    def function(x: Tensor, y: Tensor) -> Tensor:
        first = x.exp()
        second = first * y
        return hop(lambda v: v * first * second + second, x)

    assert_gradients(make, function)


@tracers
def test_what_a_body_names_later_changes(make: Make, hop: Operator) -> None:
    def function(x: Tensor) -> Tensor:
        total = x
        for factor in range(1, 4):
            total = total + hop(lambda v: v * factor * x, total)  # noqa: B023
        return total

    assert_gradients(make, function, 1)


@tracers
def test_regions_in_regions(make: Make, hop: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        hidden = y.exp()

        def outer(v: Tensor) -> Tensor:
            local = v * hidden
            return hop(lambda w: (w * local).sin() + hidden * y, v) + v

        return hop(outer, x)

    graph_module = assert_gradients(make, function)
    assert regions(graph_module, hop)


@tracers
def test_a_region_in_a_gradient_is_given_what_has_none(make: Make, plain: Operator) -> None:
    """What the innermost body takes from around would be the example value otherwise."""

    def function(x: Tensor) -> Tensor:
        def outer() -> Tensor:
            with torch.no_grad():
                fixed = x.sigmoid()
            twice = x + x

            def middle() -> Tensor:
                bound = plain(lambda: fixed + fixed)
                return plain(lambda: torch.maximum(twice, bound) * 2) * 2

            return plain(middle) * 2

        return plain(outer)

    assert_gradients(make, function, 1)


@tracers
def test_a_result_that_nobody_differentiates_may_be_out_of_date(
    make: Make, plain: Operator
) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        product = x * y
        unused = product.sin()
        product.mul_(2)
        return plain(lambda v: (unused + unused, v * 2)[1], x)

    assert_gradients(make, function)


@tracers
def test_outputs_of_every_kind(make: Make, plain: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        def body(v: Tensor, w: Tensor) -> Any:
            return {"product": v * w, "rest": (v.argmax(), None, 3, v, y, [w.detach() * 2])}

        found = plain(body, x, y)
        index, none, number, same, captured, (detached,) = found["rest"]
        assert none is None
        assert number == 3
        return found["product"] * index + same * captured * detached

    assert_gradients(make, function)


@tracers
@pytest.mark.parametrize(
    "body",
    [
        lambda v: v.t(),
        lambda v: (v * 2).t(),
        lambda v: v.t() * 1.5,
        lambda v: v.expand(2, 3, 4) * 2,
        lambda v: v.unsqueeze(0).to(memory_format=torch.contiguous_format) * 2,
    ],
)
def test_views_and_layouts(make: Make, body: Callable[[Tensor], Tensor], hop: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        result = hop(body, x * y)
        return result.sum(0) * y.sum()

    assert_gradients(make, function)


@tracers
def test_a_view_that_is_written_to_afterwards(make: Make, plain: Operator) -> None:
    def function(x: Tensor) -> Tensor:
        copy = x.clone()
        plain(lambda v: v.t(), copy).mul_(3)
        return copy * x

    assert_gradients(make, function, 1)


@tracers
def test_an_operand_that_the_body_writes_to(make: Make, plain: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        copy = x.clone()
        result = plain(lambda v: v.mul_(y).sin(), copy)
        return copy * result

    assert_gradients(make, function)


@tracers
def test_a_captured_tensor_that_the_body_writes_to(make: Make, plain: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        copy = x.clone()
        result = plain(lambda v: copy.mul_(v).sin(), y)
        return copy * result

    assert_gradients(make, function)


@tracers
def test_autocast_around_a_call(make: Make, hop: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return hop(lambda v: (v @ y.t()) * 2, x).float()

    assert_gradients(make, function)


@tracers
def test_autocast_switched_off_in_a_body(make: Make, hop: Operator) -> None:
    def body(v: Tensor, w: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return v @ w.t()

    def function(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            result = hop(body, x, y)
        assert result.dtype is torch.float32
        return result

    assert_gradients(make, function)


def test_lists_of_operands(plain: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return plain(lambda pair, scale: pair[0] * pair[1] * scale, [x, y], 3)

    for make in TRACERS.values():
        assert_gradients(make, function)


@tracers
def test_a_second_gradient_is_refused(make: Make, plain: Operator) -> None:
    def function(x: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(plain(torch.sin, x).sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)[0]

    with pytest.raises(UnsupportedError, match="differentiated twice"):
        make(function)(*leaves(1))


@tracers
def test_what_cannot_be_lifted_is_refused_by_name(make: Make, hop: Operator) -> None:
    def function(x: Tensor) -> Tensor:
        weight = x.exp()
        return torch.autograd.grad(hop(lambda v: v * Doubled.apply(weight), x).sum(), x)[0]

    with pytest.raises(UnsupportedError, match="'weight'") as raised:
        make(function)(*leaves(1))
    assert raised.value.location is not None
    assert raised.value.location.file == __file__


@pytest.mark.parametrize("kind", ["closure", "method", "partial", "module", "nested"])
def test_parameters_of_every_kind_of_body(kind: str, hop: Operator) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.ones(4) * 2)

        def method(self, v: Tensor) -> Tensor:
            return self.layer(v) * self.scale

        def forward(self, x: Tensor) -> Tensor:
            body = {
                "closure": lambda v: self.layer(v) * self.scale,
                "method": self.method,
                "partial": partial(torch.mul, self.scale),
                "module": self.layer,
                "nested": lambda v: hop(self.method, v * self.scale),
            }[kind]
            return hop(body, x).sin()

    check_training(Model(), hop, 1)


def check_training(model: nn.Module, hop: Operator, forward_regions: int) -> list[GraphModule]:
    """Compare the gradients of a model with those that AOTAutograd computes; return its graphs."""
    graphs: list[GraphModule] = []

    def keep(graph_module: GraphModule, inputs: Any) -> Any:
        graphs.append(graph_module)
        return make_boxed_func(graph_module.forward)

    x = torch.randn(3, 4, requires_grad=True)
    found = []
    for function in (aot_module(model, keep), model):
        sources = [x, *model.parameters()]
        torch.manual_seed(1)
        result = function(x)
        found.append((result, torch.autograd.grad(result.sum(), sources, allow_unused=True)))
    torch.testing.assert_close(*found)
    assert regions(graphs[0], hop) == forward_regions
    if forward_regions:
        assert regions(graphs[1], hop) == (forward_regions if hop.runs_its_body else 0)
    return graphs


class Calls(nn.Module):
    def __init__(self, hop: Operator, body: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.hop = [hop]
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.hop[0], self.layer(x), self.layer.weight)


def writes(hop: Operator, hidden: Tensor, weight: Tensor) -> Tensor:
    copy = hidden.clone()
    result = hop(lambda v: v.mul_(weight[0]).sin(), copy)
    return copy * result


def written_later(hop: Operator, hidden: Tensor, weight: Tensor) -> Tensor:
    copy = hidden.clone()
    result = hop(lambda v: v + weight[0], copy)
    copy.mul_(2)
    return copy * result


def turned(hop: Operator, hidden: Tensor, weight: Tensor) -> Tensor:
    copy = hidden.clone()
    hop(lambda v: v.t(), copy).mul_(3)
    return copy * weight[0]


AOT = {
    "captures": (lambda hop, h, w: hop(lambda v: (v @ w).sin(), h), 1),
    "dropout": (lambda hop, h, w: hop(lambda v: torch.dropout(v, 0.5, True) * w[0], h), 0),
    "nothing-but-captures": (lambda hop, h, w: hop(lambda: (h @ w).exp()), 1),
    "writes": (writes, 0),
    "written-later": (written_later, 1),
    "turned": (turned, 0),
    "custom-function": (lambda hop, h, w: hop(lambda v: Doubled.apply(v * w[0]), h), 1),
    "gradient-is-a-view": (
        lambda hop, h, w: hop(lambda v, u: v.reshape(-1) + u.t().reshape(-1), h, h * 2),
        1,
    ),
    "gradients-share": (lambda hop, h, w: hop(lambda v, u: v.t() + u.t(), h, h * 2).t() * w[0], 1),
    "without-gradient": (lambda hop, h, w: hop(lambda v: without_gradient(v, w[0]), h), 1),
}


@pytest.mark.parametrize("name", AOT)
def test_aot_autograd(name: str, plain: Operator) -> None:
    body, kept = AOT[name]
    check_training(Calls(plain, body), plain, kept)


def test_operator_without_a_body_in_a_training_step(operator: Operator) -> None:
    for make in TRACERS.values():
        graph_module = assert_gradients(make, lambda x, y: operator(x, y, factor=3.0))
        assert regions(graph_module, operator) == 1
