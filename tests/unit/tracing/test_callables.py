"""What may be captured: every kind of callable, and every structure of inputs and outputs."""

from __future__ import annotations

import functools
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.errors import CaptureError, UnknownNameError, UsageError
from hopyard.testing import assert_same_graph

X = torch.arange(6.0).reshape(2, 3)
Y = torch.ones(2, 3)
Pair = namedtuple("Pair", ["left", "right"])


def nested(values: dict[str, Any], rest: tuple[Any, ...]) -> dict[str, Any]:
    return {"out": [values["a"] + rest[0], {"deep": (values["b"][0], rest[1])}]}


def test_nested_inputs_and_outputs_keep_their_structure(as_torch: Any) -> None:
    inputs = {"a": X, "b": [Y]}, (Y, X)
    graph_module = as_torch(nested, *inputs)
    result = graph_module(*inputs)
    assert result["out"][0].equal(X + Y)
    assert result["out"][1]["deep"][1] is X


@pytest.mark.parametrize(
    "inputs",
    [
        ([X, Y],),
        ((X, Y),),
        (Pair(X, Y),),
        (OrderedDict(b=X, a=Y),),
        ({"b": X, "a": Y},),
        ([[X], [[Y]]],),
        ([X, None, 3, "word"],),
        ([],),
    ],
    ids=str,
)
def test_containers(inputs: tuple[Any, ...], as_torch: Any) -> None:
    def function(values: Any) -> Any:
        leaves = torch.utils._pytree.tree_leaves(values)
        return [leaf + 1 if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    as_torch(function, *inputs)


@pytest.mark.parametrize("value", [3, 2.5, True, None, "word", torch.float64], ids=str)
def test_inputs_that_are_no_tensors(value: Any, as_torch: Any) -> None:
    def function(x: Tensor, option: Any) -> tuple[Any, ...]:
        scaled = x * option if isinstance(option, (int, float)) else x + 1
        return scaled, option

    as_torch(function, X, value)


@pytest.mark.parametrize(
    "output",
    [
        lambda x: None,
        lambda x: 3,
        lambda x: "word",
        lambda x: (),
        lambda x: [],
        lambda x: [x],
        lambda x: {"a": x, "b": None},
        lambda x: (x, (x + 1, [2, "c"])),
        lambda x: Pair(x, x + 1),
        lambda x: x.shape,
        lambda x: x.dtype,
        lambda x: slice(0, 3),
    ],
)
def test_outputs(output: Callable[..., Any], as_torch: Any) -> None:
    as_torch(output, X)


def test_a_function_of_nothing(as_torch: Any) -> None:
    as_torch(lambda: torch.ones(3) + 1)


def test_varargs(as_torch: Any) -> None:
    def total(*values: Tensor) -> Tensor:
        return functools.reduce(torch.add, values)

    graph_module = as_torch(total, X, Y, X)
    assert graph_module(Y, Y, Y).equal(3 * Y)


def test_named_then_varargs(as_torch: Any) -> None:
    def total(first: Tensor, *rest: Tensor) -> Tensor:
        return functools.reduce(torch.add, rest, first)

    as_torch(total, X, Y, X)


def test_an_input_before_keyword_arguments_keeps_its_name(mode: Any) -> None:
    def scaled(x: Tensor, **options: Any) -> Tensor:
        return x * options.get("factor", 2)

    graph_module = hopyard.make_fx(scaled, tracing_mode=mode)(X)
    # torch calls the input `input_0`.
    assert_same_graph(graph_module, torch_make_fx(scaled, tracing_mode=mode)(X))
    assert next(iter(graph_module.graph.nodes)).name == "x_1"


def test_a_default_becomes_the_default_of_the_input(as_torch: Any) -> None:
    def scaled(x: Tensor, factor: float = 2.0) -> Tensor:
        return x * factor

    graph_module = as_torch(scaled, X, 4.0)
    (_, factor) = graph_module.graph.find_nodes(op="placeholder")
    assert factor.args == (2.0,)


class Doubler(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Scaler:
    factor = 3

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.factor

    def scale(self, x: Tensor, offset: Any) -> Tensor:
        return x * self.factor + offset

    @classmethod
    def by_class(cls, x: Tensor) -> Tensor:
        return x * cls.factor

    @staticmethod
    def by_nobody(x: Tensor) -> Tensor:
        return x * 5


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@pytest.mark.parametrize(
    "function",
    [
        Doubler(),
        Scaler(),
        Scaler.by_nobody,
        torch.sin,
        torch.nn.functional.logsigmoid,
        torch.ops.aten.cos.default,
        torch.ops.aten.cos,
        functools.partial(torch.mul, 2.0),
        functools.partial(torch.sum, dim=0),
        lambda x: x.exp(),
        remembered(lambda x: x.exp()),
        torch.compiler.disable(lambda x: x.tan()),
        torch.no_grad()(lambda x: x.tan()),
        Tensor.abs,
    ],
    ids=lambda function: getattr(function, "__name__", type(function).__name__),
)
def test_callables(function: Callable[..., Any], as_torch: Any) -> None:
    graph_module = as_torch(function, X)
    torch.testing.assert_close(graph_module(Y * 2), function(Y * 2))


@pytest.mark.parametrize(
    "method", [Scaler().by_class, Doubler().forward, functools.partial(Scaler().scale, offset=2)]
)
def test_methods_that_torch_refuses(method: Callable[..., Any], mode: Any) -> None:
    graph_module = hopyard.make_fx(method, tracing_mode=mode)(X)
    assert graph_module(Y).equal(method(Y))


def test_a_bound_method_is_captured_as_the_function_it_binds(mode: Any) -> None:
    scaler = Scaler()
    graph_module = hopyard.make_fx(scaler.scale, tracing_mode=mode)(X, Y)
    expected = torch_make_fx(lambda x, offset: scaler.scale(x, offset), tracing_mode=mode)(X, Y)
    assert_same_graph(graph_module, expected)
    assert [node.name for node in graph_module.graph.nodes][:2] == ["x_1", "offset_1"]


def test_a_wrong_number_of_inputs_is_a_usage_error(mode: Any) -> None:
    with pytest.raises(UsageError) as raised:
        hopyard.make_fx(lambda x, y: x + y, tracing_mode=mode)(X)
    assert raised.value.stage == "make_fx"


def test_an_unknown_mode_names_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError) as raised:
        hopyard.make_fx(torch.sin, tracing_mode="reel")
    assert raised.value.valid == ("fake", "real", "symbolic")
    assert raised.value.closest == "real"


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.register_buffer("shift", torch.tensor([0.5]))
        self.plain = torch.tensor([7.0])

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x) * self.scale + self.shift
        return hidden * self.scale + self.plain + self.inner[0].bias[:3]


def test_parameters_and_tensors_closed_over_become_attributes_in_order_of_use(
    as_torch: Any,
) -> None:
    torch.manual_seed(1)
    model = Layered()
    with torch.no_grad():
        graph_module = (
            as_torch(model, X) if as_torch.mode == "real" else capture_with_fake_inputs(model)
        )
    attributes = [node.target for node in graph_module.graph.find_nodes(op="get_attr")]
    assert attributes[:2] == ["_param_constant0", "_param_constant1"]
    assert "_tensor_constant0" in attributes


def capture_with_fake_inputs(function: Callable[..., Any]) -> GraphModule:
    """Capture in a fake mode that lets real tensors take part, as torch does."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    x = fake.from_tensor(X)
    graph_module = hopyard.make_fx(function, tracing_mode="fake")(x)
    assert_same_graph(graph_module, torch_make_fx(function, tracing_mode="fake")(x))
    return graph_module


def test_one_tensor_closed_over_and_used_twice_is_one_attribute(as_torch: Any) -> None:
    weight = nn.Parameter(torch.ones(3))

    def function(x: Tensor) -> Tensor:
        return x * weight + weight.detach() * weight

    with torch.no_grad():
        graph_module = (
            as_torch(function, X) if as_torch.mode == "real" else capture_with_fake_inputs(function)
        )
    assert graph_module._param_constant0 is weight
    assert not hasattr(graph_module, "_param_constant1")


def test_a_real_tensor_closed_over_in_a_fake_capture_is_refused() -> None:
    with pytest.raises(CaptureError) as raised:
        hopyard.make_fx(lambda x: x + Y, tracing_mode="fake")(X)
    assert raised.value.location is not None
    assert raised.value.location.file == __file__


@pytest.mark.parametrize("mode", ["real"], indirect=True)
@pytest.mark.parametrize("value", [Y, nn.Parameter(Y), torch.ones(2, 3).t()], ids=type)
def test_a_tensor_closed_over_and_returned_as_it_is(value: Tensor, as_torch: Any) -> None:
    graph_module = as_torch(lambda x: (x + 1, value, {"again": value}), X)
    assert graph_module(X)[1] is value
