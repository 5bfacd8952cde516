"""One definition gives the values and gradients of its eager meaning on every surface."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import hopyard
from hopyard.errors import UnsupportedError
from hopyard.hops import Operator, bind
from hopyard.testing import assert_same_graph

Make = Callable[..., Callable[..., GraphModule]]


class Sees(TorchDispatchMode):
    """A mode that nobody has heard of."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.append(str(func))
        return func(*args, **(kwargs or {}))


def ours(mode: Any) -> Make:
    return lambda function: hopyard.make_fx(function, tracing_mode=mode)


def torchs(mode: str) -> Make:
    return lambda function: torch_make_fx(function, tracing_mode=mode)


TRACERS: dict[str, Make] = {
    "ours-real": ours("real"),
    "ours-fake": ours("fake"),
    "torch-real": torchs("real"),
    "torch-fake": torchs("fake"),
    "torch-symbolic": torchs("symbolic"),
}
tracers = pytest.mark.parametrize("make", TRACERS.values(), ids=TRACERS)


def calls(graph_module: GraphModule, operator: Operator) -> list[Any]:
    return list(graph_module.graph.find_nodes(op="call_function", target=operator))


def body_of(graph_module: GraphModule, operator: Operator) -> GraphModule:
    (call,) = calls(graph_module, operator)
    body = getattr(graph_module, call.args[0].target)
    assert isinstance(body, GraphModule)
    return body


def mixed(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sin() + x


def operands() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4), torch.randn(3, 4)


def plain(x: Tensor, y: Tensor) -> Tensor:
    """What `region(mixed, x, y, factor=3.0)` means."""
    return 3.0 * mixed(x, y)


@pytest.fixture
def applied(region: Operator) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: region(mixed, x, y, factor=3.0)


# Eager and autograd


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor | None]:
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    return list(torch.autograd.grad(function(*leaves).sum(), leaves, allow_unused=True))


def test_eager(applied: Any) -> None:
    x, y = operands()
    assert applied(x, y).equal(plain(x, y))


def test_gradients_of_operands(applied: Any) -> None:
    torch.testing.assert_close(gradients(applied, *operands()), gradients(plain, *operands_again()))


def operands_again() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return operands()


@pytest.mark.parametrize(
    "surroundings",
    [nullcontext, Sees, lambda: FlopCounterMode(display=False), torch.enable_grad],
    ids=["nothing", "unknown-mode", "flop-counter", "enable-grad"],
)
def test_gradients_of_captured_tensors(region: Operator, surroundings: Any) -> None:
    x, captured = operands()
    captured.requires_grad_()
    with surroundings():
        result = region(lambda value: value * captured, x) + captured
        (gradient,) = torch.autograd.grad(result.sum(), captured)
    torch.testing.assert_close(gradient, 2.0 * x + 1)


def test_gradients_of_captured_fake_tensors(region: Operator) -> None:
    with FakeTensorMode():
        x, captured = torch.ones(3), torch.ones(3, requires_grad=True)
        assert region(lambda value: value * captured, x).requires_grad


def test_gradients_of_captured_parameters_of_a_module(region: Operator) -> None:
    layer = nn.Linear(4, 4)
    (x, _) = operands()
    with Sees():
        region(layer, x).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), 6.0))


def test_second_gradients(applied: Any) -> None:
    x, y = (value.double().requires_grad_() for value in operands())
    assert torch.autograd.gradcheck(applied, (x, y))
    assert torch.autograd.gradgradcheck(applied, (x, y))


def test_no_gradient_where_none_is_wanted(applied: Any) -> None:
    x, y = (value.requires_grad_() for value in operands())
    for surroundings in (torch.no_grad, torch.inference_mode):
        with surroundings():
            assert not applied(x, y).requires_grad
    assert not applied(x.detach(), y.detach()).requires_grad


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_operands(region: Operator, count: int) -> None:
    values = [torch.ones(2) * index for index in range(count)]
    assert region(lambda *given: torch.zeros(2) + sum(given), *values).equal(
        2 * sum(values) + torch.zeros(2)
    )


# Transforms


TRANSFORMED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "vmap": torch.vmap,
    "vmap-of-one": lambda f: torch.vmap(f, in_dims=(0, None)),
    "vmap-along-columns": lambda f: torch.vmap(f, in_dims=1, out_dims=1),
    "vmap-of-vmap": lambda f: torch.vmap(torch.vmap(f)),
    "grad": lambda f: torch.func.grad(lambda x, y: f(x, y).sum()),
    "grad-of-both": lambda f: torch.func.grad(lambda x, y: f(x, y).sum(), argnums=(0, 1)),
    "vmap-of-grad": lambda f: torch.vmap(torch.func.grad(lambda x, y: f(x, y).sum())),
    "grad-of-vmap": lambda f: torch.func.grad(lambda x, y: torch.vmap(f)(x, y).sum()),
    "jvp": lambda f: lambda x, y: torch.func.jvp(f, (x, y), (y, x)),
    "vjp": lambda f: lambda x, y: torch.func.vjp(f, x, y)[1](x),
    "jacrev": lambda f: torch.func.jacrev(f),
    "jacfwd": lambda f: torch.func.jacfwd(f),
    "hessian": lambda f: torch.func.hessian(lambda x, y: f(x, y).sum()),
    "functionalize": torch.func.functionalize,
    "functionalize-of-vmap": lambda f: torch.func.functionalize(torch.vmap(f)),
    "linearize": lambda f: lambda x, y: torch.func.linearize(f, x, y)[1](y, x),
}


# torch.func.linearize moves the body's attribute in a way that torch itself warns of.
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED)
def test_transforms(transform: Any, applied: Any, request: pytest.FixtureRequest) -> None:
    x, y = operands()
    if "vmap-of-one" in request.node.name:
        y = y[0]
    torch.testing.assert_close(transform(applied)(x, y), transform(plain)(x, y))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["vmap", "grad", "jvp", "jacrev", "vmap-of-grad", "functionalize"])
@pytest.mark.parametrize("maker", ["ours-fake", "ours-real", "torch-fake"])
def test_transforms_in_a_capture(name: str, maker: str, applied: Any) -> None:
    x, y = operands()
    transformed = TRANSFORMED[name](applied)
    graph_module = TRACERS[maker](lambda x, y: transformed(x, y))(x, y)
    torch.testing.assert_close(graph_module(y, x), TRANSFORMED[name](plain)(y, x))


def test_a_transform_reaches_what_the_body_captures(region: Operator) -> None:
    x, y = operands()

    def function(x: Tensor, y: Tensor) -> Tensor:
        return region(lambda value: value * y, x).sum()

    expected = (2 * y, 2 * x)
    torch.testing.assert_close(torch.func.grad(function, argnums=(0, 1))(x, y), expected)
    torch.testing.assert_close(torch.vmap(function)(x, y), 2 * (x * y).sum(1))


# Modes and subclasses


def test_an_unknown_mode_sees_the_operators_of_the_body(applied: Any) -> None:
    x, y = operands()
    with Sees() as seen:
        result = applied(x, y)
    assert seen.operators == [
        "aten.mul.Tensor",
        "aten.sin.default",
        "aten.add.Tensor",
        "aten.mul.Tensor",
    ]
    assert result.equal(plain(x, y))


def test_two_unknown_modes_both_see_them(applied: Any) -> None:
    with Sees() as outer, Sees() as inner:
        applied(*operands())
    assert outer.operators == inner.operators != []


def test_flops_are_counted(region: Operator) -> None:
    x = torch.ones(4, 4)
    with FlopCounterMode(display=False) as counter:
        region(torch.mm, x, x)
    assert counter.get_total_flops() == 2 * 4**3


def test_a_function_mode_sees_the_functions_of_the_body(applied: Any) -> None:
    class Functions(torch.overrides.TorchFunctionMode):
        names: list[str] = []  # noqa: RUF012

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.names.append(getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    with Functions():
        x, y = operands()
        result = applied(x, y)
    assert "sin" in Functions.names
    assert result.equal(plain(x, y))


def test_a_default_device_applies_to_the_body(region: Operator) -> None:
    with torch.device("meta"):
        assert region(lambda: torch.zeros(3)).device.type == "meta"


@tracers
def test_a_default_device_applies_to_a_captured_body(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        with torch.device("meta"):
            return region(lambda value: torch.zeros(3), x)

    graph_module = make(function)(*operands())
    assert graph_module(*operands()).device.type == "meta"


def test_fx_is_told_of_the_call_in_a_symbolically_traced_function(region: Operator) -> None:
    with pytest.raises(RuntimeError, match="symbolically trace the HigherOrderOperator"):
        torch.fx.symbolic_trace(lambda x: region(torch.sin, x))


def test_a_tensor_subclass_sees_the_operators_of_the_body(applied: Any) -> None:
    x, y = operands()
    result = applied(TwoTensor(x, x + 1), TwoTensor(y, y + 1))
    assert isinstance(result, TwoTensor)
    torch.testing.assert_close(result.a, plain(x, y))
    torch.testing.assert_close(result.b, plain(x + 1, y + 1))


def test_a_subclass_beside_a_plain_tensor(applied: Any) -> None:
    x, y = operands()
    result = applied(x, TwoTensor(y, y + 1))
    assert isinstance(result, TwoTensor)
    torch.testing.assert_close(result.b, plain(x, y + 1))


def test_gradients_through_a_subclass(applied: Any) -> None:
    x, y = operands()
    leaf = TwoTensor(x, x + 1).requires_grad_()
    (gradient,) = torch.autograd.grad(applied(leaf, TwoTensor(y, y)).sum(), leaf)
    expected = gradients(plain, x, y)[0]
    torch.testing.assert_close(gradient.a, expected)


def test_a_subclass_that_only_the_body_knows(region: Operator) -> None:
    x, y = operands()
    two = TwoTensor(y, y + 1)
    for surroundings in (nullcontext(), Sees()):
        with surroundings:
            result = region(lambda value: value * two, x)
        assert isinstance(result, TwoTensor)
        torch.testing.assert_close(result.b, 2 * x * (y + 1))


def test_a_parameter_that_holds_a_subclass(region: Operator) -> None:
    x, y = operands()
    parameter = nn.Parameter(TwoTensor(y, y + 1))
    result = region(torch.mul, x, parameter)
    torch.testing.assert_close(torch.autograd.grad(result.sum(), parameter)[0].a, 2 * x)


# Fake tensors


def test_fake_tensors(applied: Any) -> None:
    with FakeTensorMode():
        result = applied(*operands())
    assert isinstance(result, FakeTensor)
    assert result.shape == (3, 4)


def test_fake_tensors_outside_their_mode(applied: Any) -> None:
    mode = FakeTensorMode()
    result = applied(*(mode.from_tensor(value) for value in operands()))
    assert isinstance(result, FakeTensor)
    assert result.fake_mode is mode


# Capture


@tracers
def test_a_capture_keeps_the_region(make: Make, region: Operator, applied: Any) -> None:
    x, y = operands()
    graph_module = make(applied)(x, y)
    (call,) = calls(graph_module, region)
    assert call.kwargs == {"factor": 3.0}
    assert [str(node.target) for node in body_of(graph_module, region).graph.nodes][2:5] == [
        "aten.mul.Tensor",
        "aten.sin.default",
        "aten.add.Tensor",
    ]
    torch.testing.assert_close(graph_module(y, x), plain(y, x))


@tracers
def test_a_captured_graph_has_gradients(make: Make, applied: Any) -> None:
    graph_module = make(applied)(*operands())
    torch.manual_seed(0)
    torch.testing.assert_close(
        gradients(graph_module, *operands()), gradients(plain, *operands_again())
    )


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_our_graph_is_torchs(mode: Any, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        hidden = x + 1
        return region(lambda value: (value @ hidden.t()).sin(), y, factor=0.5)[0] * 2

    actual, expected = (make(mode)(function)(*operands()) for make in (ours, torchs))
    assert_same_graph(actual, expected)


@tracers
def test_operands_that_require_grad(make: Make, applied: Any) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(applied(x, y).sum(), (x, y))

    x, y = (value.requires_grad_() for value in operands())
    graph_module = make(function)(x, y)
    fresh = operands()
    torch.testing.assert_close(list(graph_module(*fresh)), gradients(plain, *fresh))


@tracers
def test_traced_values_in_the_body_become_operands(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        hidden = y.exp()
        return region(lambda value: value * y + hidden * y, x)

    x, y = operands()
    graph_module = make(function)(x, y)
    assert not body_of(graph_module, region).graph.find_nodes(op="get_attr")
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@tracers
def test_a_region_in_a_region(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        def outer(value: Tensor) -> Tensor:
            return region(torch.sin, value * 2) + region(torch.mul, value, value)

        return region(outer, x) + y

    graph_module = make(function)(*operands())
    assert len(calls(body_of(graph_module, region), region)) == 2
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@tracers
@pytest.mark.parametrize("depth", [2, 3])
def test_values_captured_several_regions_deep(make: Make, depth: int, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        hidden = y.exp()

        def nested(level: int) -> Callable[[Tensor], Tensor]:
            if level == 0:
                return lambda value: value * y + hidden
            return lambda value: region(nested(level - 1), value + 1)

        return nested(depth)(x)

    graph_module = make(function)(*operands())
    for node in graph_module.graph.nodes:
        assert node.op != "get_attr" or isinstance(getattr(graph_module, node.target), GraphModule)
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@tracers
def test_values_of_a_region_captured_by_one_within(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        def outer(value: Tensor) -> Tensor:
            local = value.cos()
            return region(lambda inner: inner * local + value * y, local + 1)

        return region(outer, x)

    graph_module = make(function)(*operands())
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@tracers
def test_containers_of_operands_and_results(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        def body(values: list[Tensor], other: Tensor) -> tuple[Tensor, Tensor]:
            return values[0] + other, values[1] * other

        total, product = region(body, [x, y], y)
        return total - product

    graph_module = make(function)(*operands())
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@tracers
def test_numbers_among_operands(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return region(
            lambda value, count, flag, none: value * count if flag else value, x, 3, True, None
        )

    graph_module = make(function)(*operands())
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@tracers
def test_one_tensor_given_twice_and_captured(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return region(lambda a, b: a * 2 + b * x + y, x, x)

    graph_module = make(function)(*operands())
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@tracers
def test_a_body_that_returns_what_it_is_given(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        same, captured, number = region(lambda value: (value, y, value.sum()), x, factor=1.0)
        return same + x, captured * number

    graph_module = make(function)(*operands())
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@tracers
def test_an_operator_without_a_body(make: Make, operator: Operator) -> None:
    graph_module = make(lambda x, y: operator(x, y, factor=4.0) + 1)(*operands())
    assert len(calls(graph_module, operator)) == 1
    x, y = operands()
    torch.testing.assert_close(graph_module(x, y), 4 * x * y.sin() + 1)


@tracers
def test_random_numbers_in_a_body(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return region(lambda value: torch.dropout(value, 0.5, True), x) + torch.rand_like(y)

    graph_module = make(function)(*operands())
    fresh = operands()
    torch.manual_seed(5)
    expected = function(*fresh)
    torch.manual_seed(5)
    torch.testing.assert_close(graph_module(*fresh), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("where", ["eager", "unknown-mode", *TRACERS])
def test_forward_gradients(where: str, captured: bool, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, y)
            if captured:
                result = region(lambda value: value * dual, y)
            else:
                result = region(torch.mul, dual, y)
            tangent = forward_ad.unpack_dual(result).tangent
            return torch.zeros_like(x) if tangent is None else tangent

    x, y = operands()
    with Sees() if where == "unknown-mode" else nullcontext():
        run = TRACERS[where](function)(x, y) if where in TRACERS else function
        torch.testing.assert_close(run(x, y), 2 * y * y)


@tracers
def test_a_gradient_of_a_captured_tensor(make: Make, region: Operator) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        weight = y.detach().requires_grad_()
        result = region(lambda value: value * weight, x) + weight
        return torch.autograd.grad(result.sum(), weight)[0]

    graph_module = make(function)(*operands())
    assert calls(graph_module, region)
    x, y = operands()
    torch.testing.assert_close(graph_module(x, y), 2 * x + 1)


@pytest.mark.parametrize("make", [ours("real"), ours("fake")], ids=["real", "fake"])
def test_a_capture_without_gradients_may_capture_such_a_tensor(
    make: Make, region: Operator
) -> None:
    weight = torch.ones(3, 4, requires_grad=True)

    def function(x: Tensor, w: Tensor) -> Tensor:
        return region(lambda value: value * w, x)

    with torch.no_grad():
        graph_module = make(function)(operands()[0], weight)
    x, y = operands()
    torch.testing.assert_close(graph_module(x, y), 2 * x * y)


# Mutation


@tracers
def test_a_body_runs_once_for_the_caller(make: Make, region: Operator) -> None:
    """What a body does to its operands in place must happen in a capture as it does in eager."""

    def turned(value: Tensor) -> Tensor:
        return value.clone().t_()

    def function(x: Tensor, y: Tensor) -> Tensor:
        return region(turned, x).t() + y

    graph_module = make(function)(*operands())
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@pytest.mark.parametrize("make", [ours("real"), ours("fake")], ids=["real", "fake"])
@pytest.mark.parametrize("captures", [False, True])
def test_a_body_that_changes_its_operand_is_right_or_refused(
    make: Make, captures: bool, region: Operator
) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        copy = x.clone()
        if captures:
            result = region(lambda value: copy.add_(value), y)
        else:
            result = region(lambda value: value.add_(1), copy)
        return copy + 1, result

    try:
        graph_module = make(function)(*operands())
    except UnsupportedError:
        return
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@pytest.mark.parametrize("make", [ours("real"), ours("fake")], ids=["real", "fake"])
def test_a_body_that_turns_its_operand_in_place_is_right_or_refused(
    make: Make, region: Operator
) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        copy = x.clone()
        region(lambda value: value.t_() * 1, copy)
        return copy.reshape(-1)

    try:
        graph_module = make(function)(*operands())
    except UnsupportedError:
        return
    assert graph_module.graph.output_node().args[0].meta["val"].shape == (12,)
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@pytest.mark.parametrize("make", [ours("real"), torchs("real")], ids=["ours", "torch"])
def test_a_real_capture_changes_an_input_as_often_as_a_call(make: Make, region: Operator) -> None:
    x, y = torch.zeros(2), torch.ones(2)
    try:
        make(lambda x, y: region(lambda value: value.add_(1), x) + y)(x, y)
    except UnsupportedError:
        return
    assert x.equal(torch.ones(2))


@pytest.mark.parametrize("tracer", [None, "ours-fake", "torch-fake"])
@pytest.mark.parametrize("captures", [False, True], ids=["operand", "captured"])
def test_mutation_under_functionalize_is_right_or_refused(
    tracer: str | None, captures: bool, region: Operator
) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        copy = x.clone()
        if captures:
            result = region(lambda value: copy.add_(value).sin(), y)
        else:
            result = region(lambda value: value.add_(1).sin(), copy)
        return copy * 2, result

    functional = torch.func.functionalize(function)
    fresh = operands()
    try:
        make = TRACERS[tracer] if tracer else lambda function: lambda *_: function
        actual = make(lambda x, y: functional(x, y))(*fresh)(*fresh)
    except UnsupportedError:
        return
    torch.testing.assert_close(actual, function(*fresh))


def test_mutation_inside_the_body_alone_is_fine(region: Operator) -> None:
    def body(value: Tensor) -> Tensor:
        return value.clone().add_(1).sin_()

    (x, _) = operands()
    functional = torch.func.functionalize(lambda x: region(body, x))
    torch.testing.assert_close(functional(x), 2 * (x + 1).sin())
    graph_module = hopyard.make_fx(lambda x: functional(x))(x)
    inner = [str(node.target) for node in body_of(graph_module, region).graph.nodes]
    assert not any("_.default" in target or "add_" in target for target in inner)


@pytest.mark.parametrize("make", [ours("real"), torchs("fake")], ids=["ours", "torch"])
def test_a_region_in_a_functionalized_region_takes_from_around(
    make: Make, region: Operator
) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return region(lambda v: region(lambda w: x - w + v, v.clone().add_(1)), y)

    functional = torch.func.functionalize(function)
    graph_module = make(lambda x, y: functional(x, y))(*operands())
    fresh = operands()
    torch.testing.assert_close(graph_module(*fresh), function(*fresh))


@pytest.mark.parametrize("make", [hopyard.make_fx, torch_make_fx], ids=["ours", "torch"])
def test_grad_modes_of_a_body_are_recorded_in_the_body_alone(make: Any, region: Operator) -> None:
    def body(value: Tensor) -> Tensor:
        with torch.no_grad():
            return value.sigmoid()

    graph_module = make(lambda x: region(body, x), tracing_mode="fake", pre_dispatch=True)(
        operands()[0]
    )
    target = torch._C._set_grad_enabled
    assert not graph_module.graph.find_nodes(op="call_function", target=target)
    inner = body_of(graph_module, region)
    assert len(inner.graph.find_nodes(op="call_function", target=target)) == 2


@pytest.mark.parametrize("make", [ours("real"), torchs("real")], ids=["ours", "torch"])
def test_a_parameter_used_in_a_region_and_outside_of_it(make: Make, region: Operator) -> None:
    weight = nn.Parameter(torch.randn(3, 4))

    def function(x: Tensor) -> Tensor:
        return region(lambda v: region(lambda w: w * weight, v), x) * weight

    with torch.no_grad():
        graph_module = make(function)(operands()[0])
        (x, _) = operands()
        torch.testing.assert_close(graph_module(x), function(x))


# Export


leaf_spec = pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")
"""What torch says of its own copying of exported programs."""


class Exported(nn.Module):
    def __init__(self, region: Operator, body: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.region = [region]
        self.layer = nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        nested = self.region[0](lambda value: value + hidden, hidden)
        return self.region[0](
            lambda value: self.layer(value) * self.shift + nested, hidden, factor=0.5
        )


def exported(region: Operator) -> tuple[Exported, Any, Tensor]:
    module = Exported(region)
    x = torch.randn(3, 4)
    return module, torch.export.export(module, (x,), strict=False), torch.randn(3, 4)


def test_export(region: Operator) -> None:
    module, program, x = exported(region)
    assert len(calls(program.graph_module, region)) == 2
    torch.testing.assert_close(program.module()(x), module(x))


def test_an_exported_program_is_saved_and_loaded(region: Operator) -> None:
    module, program, x = exported(region)
    buffer = BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer)
    assert len(calls(loaded.graph_module, region)) == 2
    torch.testing.assert_close(loaded.module()(x), module(x))


@leaf_spec
def test_decompositions_of_an_exported_program(region: Operator) -> None:
    module, program, x = exported(region)
    decomposed = program.run_decompositions()
    assert len(calls(decomposed.graph_module, region)) == 2
    for name, body in decomposed.graph_module.named_children():
        targets = [str(node.target) for node in body.graph.nodes]
        assert "aten.linear.default" not in targets, name
    torch.testing.assert_close(decomposed.module()(x), module(x))


def test_parameters_stay_parameters_of_the_exported_program(region: Operator) -> None:
    module, program, x = exported(region)
    with torch.no_grad():
        for value in program.state_dict.values():
            value.mul_(2)
    torch.testing.assert_close(program.module()(x), module(x))
    assert not program.constants


class Changes(nn.Module):
    def __init__(self, region: Operator) -> None:
        super().__init__()
        self.region = [region]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        copy = x.clone()
        captured = x.clone()
        # Its result is not used, and it is no dead code.
        self.region[0](lambda value: value.add_(captured.mul_(2)), copy)
        return copy * 2, captured


def test_a_body_that_changes_its_operand_is_not_exported_unless_it_may(region: Operator) -> None:
    with pytest.raises(UnsupportedError, match="operand 0 in place"):
        torch.export.export(Changes(region), (torch.ones(3),), strict=False)


@leaf_spec
def test_an_exported_body_that_may_change_its_operand(define: Any) -> None:
    writer = bind(define(writes=True))
    (x, _) = operands()
    model = Changes(writer)
    program = torch.export.export(model, (x,), strict=False)
    decomposed = program.run_decompositions()
    for each in (program, decomposed):
        buffer = BytesIO()
        torch.export.save(each, buffer)
        buffer.seek(0)
        for exported_program in (each, torch.export.load(buffer)):
            assert len(calls(exported_program.graph_module, writer)) == 1
            fresh = torch.randn(3, 4)
            torch.testing.assert_close(exported_program.module()(fresh), model(fresh))
    (call,) = calls(decomposed.graph_module, writer)
    body = getattr(decomposed.graph_module, call.args[0].target)
    assert not any("_.Tensor" in str(node.target) for node in body.graph.nodes)
