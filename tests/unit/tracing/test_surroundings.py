"""Captures in and around the rest of torch: transforms, fake modes, decompositions, operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional
from torch.utils._pytree import tree_leaves

import hopyard
from hopyard.testing import assert_same_graph

aten = torch.ops.aten


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6), torch.randn(4, 6)


def network(x: Tensor, y: Tensor) -> Tensor:
    hidden = functional.layer_norm(functional.gelu(x @ y.t()), (4,))
    return functional.softmax(functional.silu(hidden), -1).var(1)


def writes(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    total[0].mul_(2)
    total.t_()
    return total.relu_()


def smooth(x: Tensor, y: Tensor) -> Tensor:
    return (x.sin() * y).exp().sum()


TRANSFORMED: dict[str, Callable[..., Any]] = {
    "functionalize": torch.func.functionalize(writes),
    "functionalize-without-views": torch.func.functionalize(writes, remove="mutations_and_views"),
    "vmap": torch.vmap(lambda x, y: (x * y).sum().expand(3)),
    "vmap-of-vmap": torch.vmap(torch.vmap(torch.dot, in_dims=(0, None)), in_dims=(None, 0)),
    "vmap-of-a-random-program": torch.vmap(
        lambda x, y: torch.dropout(x, 0.5, True) + y, randomness="different"
    ),
    "grad": torch.func.grad(smooth),
    "grad-and-value": torch.func.grad_and_value(smooth, argnums=(0, 1)),
    "vmap-of-grad": torch.vmap(torch.func.grad(smooth)),
    "jacrev": torch.func.jacrev(lambda x, y: (x * y).sum(1)),
    "jacfwd": torch.func.jacfwd(lambda x, y: (x * y).sum(1)),
    "hessian": torch.func.hessian(lambda x, y: (x[0] * y[0]).sin().sum()),
    "jvp": lambda x, y: torch.func.jvp(torch.sin, (x,), (y,)),
    "vjp": lambda x, y: torch.func.vjp(torch.sin, x)[1](y),
}


# torch's own forward-mode rules are scripted.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("function", TRANSFORMED.values(), ids=TRANSFORMED)
def test_a_transformed_function(function: Callable[..., Any], as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Any:
        return function(x, y)

    as_torch(program, fresh=pair)


TABLES: dict[str, Callable[[], dict[Any, Any]]] = {
    "one": lambda: get_decompositions([aten.gelu]),
    "several": lambda: get_decompositions([aten.native_layer_norm, aten._softmax, aten.silu]),
    "core": core_aten_decompositions,
    "nested": lambda: {
        aten._softmax.default: lambda x, dim, half: aten.silu(x) * aten.sigmoid(x),
        aten.silu.default: lambda x: x * aten.sigmoid(x),
        aten.sigmoid.default: lambda x: 1 / (1 + aten.exp(-x)),
    },
    "composite": lambda: {aten.var.dim: lambda x, dims, **_: (x * x).mean(dims)},
    "declines": lambda: {aten.gelu.default: lambda *args, **kwargs: NotImplemented},
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_decompositions(table: Callable[[], dict[Any, Any]], as_torch: Any) -> None:
    as_torch(network, fresh=pair, decompositions=table())


def test_a_decomposition_is_recorded_in_place_of_its_operator(mode: Any) -> None:
    graph_module = hopyard.make_fx(network, TABLES["nested"](), mode)(*pair())
    targets = {node.target for node in graph_module.graph.nodes}
    assert aten.exp.default in targets
    assert not targets & {aten._softmax.default, aten.silu.default, aten.sigmoid.default}


def fake_mode(mode: str) -> FakeTensorMode:
    return FakeTensorMode(shape_env=ShapeEnv() if mode == "symbolic" else None)


def test_an_outer_fake_mode_is_used(mode: Any) -> None:
    with fake_mode(mode) as fake:
        inputs = [fake.from_tensor(value) for value in pair()]
        ours = hopyard.make_fx(network, tracing_mode=mode)(*inputs)
        assert_same_graph(ours, torch_make_fx(network, tracing_mode=mode)(*inputs))
    values = tree_leaves([node.meta.get("val") for node in ours.graph.nodes])
    assert {value.fake_mode for value in values if isinstance(value, Tensor)} == {fake}


def test_fake_inputs_bring_their_mode(mode: Any) -> None:
    captures = []
    for make_fx in (hopyard.make_fx, torch_make_fx):
        fake = fake_mode(mode)
        inputs = [fake.from_tensor(value) for value in pair()]
        captures.append(make_fx(network, tracing_mode=mode)(*inputs))
        assert next(iter(captures[-1].graph.nodes)).meta["val"].fake_mode is fake
    assert_same_graph(*captures)


def test_a_fake_input_may_be_captured_twice() -> None:
    fake = FakeTensorMode()
    inputs = [fake.from_tensor(value) for value in pair()]
    once = hopyard.make_fx(network, tracing_mode="fake")(*inputs)
    assert_same_graph(hopyard.make_fx(network, tracing_mode="fake")(*inputs), once)


def test_no_grad_and_inference_around_a_capture(as_torch: Any) -> None:
    for surrounding in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with surrounding():
            as_torch(network, fresh=pair)


def test_inputs_that_require_grad(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((x * y).sin().sum(), (x, y))

    as_torch(program, fresh=lambda: [value.requires_grad_() for value in pair()])


def test_inputs_that_alias_each_other(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        return x + y

    def aliases() -> tuple[Tensor, Tensor]:
        base = torch.zeros(8)
        return base[:4], base[2:6]

    as_torch(program, fresh=aliases)


def test_one_tensor_given_twice(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        return x.add_(1) + y

    def twice() -> tuple[Tensor, Tensor]:
        one = torch.zeros(3)
        return one, one

    as_torch(program, fresh=twice)


@pytest.fixture
def scaled_cumulative_sum() -> Iterator[Any]:
    with torch.library._scoped_library("hopyard_tests", "FRAGMENT"):

        @torch.library.custom_op("hopyard_tests::scaled_cumulative_sum", mutates_args=())
        def operator(x: Tensor, factor: float, dims: list[int]) -> list[Tensor]:
            return [x.cumsum(dim) * factor for dim in dims]

        @operator.register_fake
        def _(x: Tensor, factor: float, dims: list[int]) -> list[Tensor]:
            return [torch.empty_like(x) for _ in dims]

        yield operator


def test_a_custom_operator_is_one_node(scaled_cumulative_sum: Any, as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        down, across = scaled_cumulative_sum(x, 2.0, [0, 1])
        return down + across * y

    graph_module = as_torch(program, fresh=pair)
    targets = [str(node.target) for node in graph_module.graph.nodes]
    assert targets.count("hopyard_tests.scaled_cumulative_sum.default") == 1


def test_an_autograd_function_of_the_users(as_torch: Any) -> None:
    class Clipped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return (gradient * x).clamp(-1, 1)

    def program(x: Tensor, y: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(Clipped.apply(leaf).sum(), leaf)
        return gradient + y

    as_torch(program, fresh=pair)


def test_a_training_step(as_torch: Any) -> None:
    def step(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        model = nn.Linear(6, 3, device="meta")
        loss = (
            torch.func.functional_call(model, {"weight": weight, "bias": bias}, (x,)).tanh().sum()
        )
        gradients = torch.autograd.grad(loss, (weight, bias))
        return loss, *[
            value - 0.1 * gradient
            for value, gradient in zip((weight, bias), gradients, strict=True)
        ]

    def inputs() -> list[Tensor]:
        return [
            torch.randn(4, 6),
            torch.randn(3, 6, requires_grad=True),
            torch.randn(3, requires_grad=True),
        ]

    as_torch(step, fresh=inputs)


@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_sparse_results_have_no_recorded_value(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        return x.to_sparse().to_dense() + y

    graph_module = as_torch(program, fresh=pair)
    assert (
        graph_module.graph.find_nodes(op="call_function", target=aten._to_sparse.default)[0].meta[
            "val"
        ]
        is None
    )


def test_a_sparse_result(as_torch: Any) -> None:
    as_torch(lambda x: x.to_sparse(), fresh=lambda: [torch.eye(3)])
