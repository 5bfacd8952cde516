"""Whatever happens in a capture, torch and the user's tensors are afterwards as before."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

import hopyard
from hopyard.errors import CaptureError
from hopyard.testing import assert_same_graph, describe_graph


def program(x: Tensor, weight: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = functional.gelu(leaf @ weight.t())
    with torch.no_grad():
        scale = hidden.float().std() * torch.tensor(2.0)
    hidden = hidden.float() * scale
    hidden[0].mul_(2)
    (gradient,) = torch.autograd.grad(hidden.sum(), leaf)
    return gradient


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6), torch.randn(6, 6)


def settings() -> dict[str, Any]:
    """Everything process-wide or thread-local that a capture could leave changed."""
    return {
        "dispatch modes": list(_get_current_dispatch_mode_stack()),
        "function modes": list(_get_current_function_mode_stack()),
        "proxy mode": proxy_tensor.get_proxy_mode(),
        "torch's tracer": proxy_tensor._CURRENT_MAKE_FX_TRACER,
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "default type": torch.get_default_dtype(),
        "transform": torch._C._functorch.peek_interpreter_stack(),
        "excluded keys": str(torch._C._dispatch_tls_local_exclude_set()),
        "included keys": str(torch._C._dispatch_tls_local_include_set()),
        "module call": nn.Module.__call__,
        "module attribute": nn.Module.__getattr__,
        "tracing context": torch._guards.TracingContext.try_get(),
    }


@contextmanager
def unchanged(*tensors: Tensor) -> Iterator[None]:
    before, attributes = settings(), [dict(tensor.__dict__) for tensor in tensors]
    versions = [tensor._version for tensor in tensors]
    yield
    assert settings() == before
    assert [dict(tensor.__dict__) for tensor in tensors] == attributes
    assert [tensor._version for tensor in tensors] == versions


def left_on(tensor: Tensor) -> list[str]:
    """What a capture left on a tensor; a fake one may keep a slot that holds nothing."""
    return [
        name
        for name, value in tensor.__dict__.items()
        if "hopyard" in name and (not isinstance(tensor, FakeTensor) or hasattr(value, "node"))
    ]


class Fails(Exception):
    pass


class FailsAt(TorchDispatchMode):
    """Raises at the operator of the given number; counts all of them if it is never reached."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # torch asks for a device where C++ cannot throw: an error there ends the process.
        if func is torch.ops.prim.device.default:
            return func(*args, **(kwargs or {}))
        self.count += 1
        if self.count > self.number:
            raise Fails
        return func(*args, **(kwargs or {}))


def test_an_error_at_any_operator_leaves_everything_as_it_was(mode: Any) -> None:
    def within(failing: FailsAt, kept: list[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def function(x: Tensor, weight: Tensor) -> Tensor:
            kept.append(x.detach())
            with failing:
                return program(x, weight)

        return function

    counter = FailsAt(10_000)
    complete = hopyard.make_fx(within(counter, []), tracing_mode=mode)(*inputs())
    assert counter.count > 20
    longest = 0
    for number in range(counter.count):
        values, kept = inputs(), list[Tensor]()
        with unchanged(*values), pytest.raises(CaptureError) as raised:
            hopyard.make_fx(within(FailsAt(number), kept), tracing_mode=mode)(*values)
        assert isinstance(raised.value.__cause__, Fails)
        graph = raised.value.partial_graph
        assert graph is not None
        graph.lint()
        longest = max(longest, len(graph.nodes))
        assert not any(map(left_on, kept))
    assert longest >= len(complete.graph.nodes) - 2


def test_an_error_in_a_mode_around_the_capture_leaves_everything_as_it_was(mode: Any) -> None:
    failures = 0
    for number in range(200):
        values, failing = inputs(), FailsAt(number)
        # What such a mode sees also includes how the inputs are described.
        with unchanged(*values), suppress(CaptureError, Fails), failing:
            hopyard.make_fx(program, tracing_mode=mode)(*values)
        if failing.count <= number:
            break
        failures += 1
    assert 20 < failures < 199


@pytest.fixture
def failing_operator() -> Iterator[Any]:
    with torch.library._scoped_library("hopyard_tests", "FRAGMENT"):

        @torch.library.custom_op("hopyard_tests::fails", mutates_args=())
        def operator(x: Tensor) -> Tensor:
            raise Fails

        @operator.register_fake
        def _(x: Tensor) -> Tensor:
            raise Fails

        yield operator


STEPS: list[Callable[[Tensor], Tensor]] = [
    torch.sin,
    lambda x: x.add_(1),
    lambda x: x[0].mul_(2).expand(4, 6).clone(),
    lambda x: torch.func.grad(lambda y: (y * y).sum())(x),
    lambda x: torch.vmap(torch.dot, in_dims=(0, None))(x, x[0]).expand(6, 4).t(),
    torch.compile(torch.cos, backend="eager", disable=True),
]


@pytest.mark.parametrize("position", range(len(STEPS) + 1))
@pytest.mark.parametrize("transform", ["none", "grad", "vmap", "functionalize", "autocast"])
def test_an_operator_that_fails_leaves_everything_as_it_was(
    transform: str, position: int, mode: Any, failing_operator: Any
) -> None:
    def failing(x: Tensor) -> Tensor:
        x = x.clone()
        for step in [*STEPS[:position], around[transform], *STEPS[position:]]:
            x = step(x)
        return x

    around: dict[str, Callable[[Tensor], Tensor]] = {
        "none": failing_operator,
        "grad": torch.func.grad(lambda x: failing_operator(x.exp()).sum()),
        "vmap": torch.vmap(lambda x: x + failing_operator(torch.ones(3)).sum()),
        "functionalize": torch.func.functionalize(failing_operator),
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16)(failing_operator),
    }
    (x, _) = inputs()
    with unchanged(x), pytest.raises(CaptureError) as raised:
        hopyard.make_fx(failing, tracing_mode=mode)(x)
    assert raised.value.partial_graph is not None
    assert len(raised.value.partial_graph.nodes) >= 2 + position


def test_a_capture_leaves_everything_as_it_was(mode: Any) -> None:
    values = inputs()
    with unchanged(*values):
        hopyard.make_fx(program, tracing_mode=mode)(*values)


def test_the_settings_of_the_caller_are_not_touched(mode: Any) -> None:
    values = inputs()
    with torch.enable_grad(), torch.autocast("cpu"), unchanged(*values):
        torch.set_autocast_cache_enabled(False)
        try:
            before = settings()
            hopyard.make_fx(program, tracing_mode=mode)(*values)
            assert settings() == before
        finally:
            torch.set_autocast_cache_enabled(True)


def test_tensors_put_aside_by_the_program_carry_nothing_of_ours(mode: Any) -> None:
    aside: list[Tensor] = []

    def hoards(x: Tensor, weight: Tensor) -> Tensor:
        hidden = x @ weight
        aside.extend([x, hidden, hidden.view(-1), hidden[0], hidden.t(), torch.tensor(2.0)])
        return hidden.sin_()

    hopyard.make_fx(hoards, tracing_mode=mode)(*inputs())
    assert not any(map(left_on, aside))


def test_fake_inputs_carry_nothing_of_ours(mode: Any) -> None:
    fake = FakeTensorMode(shape_env=ShapeEnv() if mode == "symbolic" else None)
    values = [fake.from_tensor(value) for value in inputs()]
    before = [set(value.__dict__) for value in values]
    for _ in range(3):
        hopyard.make_fx(lambda x, y: x.mul_(2) @ y, tracing_mode=mode)(*values)
    assert [set(value.__dict__) for value in values] == before


def test_a_graph_module_carries_nothing_of_the_capture(mode: Any) -> None:
    graph_module = hopyard.make_fx(program, tracing_mode=mode)(*inputs())
    values = torch.utils._pytree.tree_leaves([node.meta for node in graph_module.graph.nodes])
    tensors = [value for value in values if isinstance(value, Tensor)]
    tensors += graph_module.buffers()
    assert tensors
    assert not any("hopyard" in name for tensor in tensors for name in tensor.__dict__)


def alive() -> dict[str, int]:
    gc.collect()
    counts = dict.fromkeys(("Tensor", "FakeTensor", "FakeTensorMode", "Node", "GraphModule"), 0)
    for thing in gc.get_objects():
        name = type(thing).__name__
        if name in counts or "hopyard" in str(type(thing).__module__):
            counts[name] = counts.get(name, 0) + 1
    return counts


def test_fifty_captures_leave_nothing_behind(mode: Any) -> None:
    def refused(x: Tensor, weight: Tensor) -> Tensor:
        return x if (x @ weight).sum() > 0 else weight

    def capture() -> None:
        values = inputs()
        hopyard.make_fx(program, tracing_mode=mode)(*values)
        with pytest.raises(CaptureError):
            hopyard.make_fx(refused, tracing_mode=mode)(*values)

    for _ in range(3):
        capture()
    before = alive()
    for _ in range(50):
        capture()
    after = alive()
    assert {name: count for name, count in after.items() if count > before.get(name, 0)} == {}


def test_captures_on_four_threads_are_those_of_one(mode: Any) -> None:
    def chain(depth: int) -> Callable[[Tensor, Tensor], Tensor]:
        def function(x: Tensor, weight: Tensor) -> Tensor:
            for index in range(depth):
                x = (x @ weight).sin() if index % 2 else program(x, weight) + index
            return x

        return function

    def capture(depth: int) -> Any:
        graph_module = hopyard.make_fx(chain(depth), tracing_mode=mode)(*inputs())
        return describe_graph(graph_module)

    torch.manual_seed(0)
    depths = [1, 2, 3, 4] * 3
    expected = {depth: capture(depth) for depth in set(depths)}
    barrier = threading.Barrier(4)

    def at_once(depth: int) -> Any:
        barrier.wait(timeout=60)
        return capture(depth)

    before = settings()
    with ThreadPoolExecutor(4) as pool:
        graphs = list(pool.map(at_once, depths))
    assert [
        describe == expected[depth] for depth, describe in zip(depths, graphs, strict=True)
    ] == [True] * len(depths)
    assert settings() == before


def test_a_capture_and_plain_computing_on_another_thread(mode: Any) -> None:
    """A tensor shared by threads may be captured by both at once."""
    x, weight = inputs()
    expected = describe_graph(hopyard.make_fx(program, tracing_mode=mode)(x, weight))

    def capture(_: int) -> Any:
        return describe_graph(hopyard.make_fx(program, tracing_mode=mode)(x, weight))

    with ThreadPoolExecutor(4) as pool:
        assert all(graph == expected for graph in pool.map(capture, range(8)))
    assert not x.__dict__
    assert not weight.__dict__


MAKERS = {"ours": hopyard.make_fx, "torch's": torch_make_fx}


@pytest.mark.parametrize(
    ("outer", "inner"), [("ours", "ours"), ("ours", "torch's"), ("torch's", "ours")]
)
def test_a_capture_inside_a_capture(outer: str, inner: str, mode: Any) -> None:
    def capture(
        outer_make: Callable[..., Any], inner_make: Callable[..., Any]
    ) -> list[GraphModule]:
        graphs: list[GraphModule] = []

        def nested(x: Tensor, weight: Tensor) -> Tensor:
            hidden = x @ weight
            graphs.append(inner_make(lambda y: (y * 2).sin(), tracing_mode=mode)(hidden))
            return graphs[0](hidden) + 1

        torch.manual_seed(0)
        graphs.append(outer_make(nested, tracing_mode=mode)(*inputs()))
        return graphs

    with unchanged():
        ours = capture(MAKERS[outer], MAKERS[inner])
    for actual, expected in zip(ours, capture(torch_make_fx, torch_make_fx), strict=True):
        assert_same_graph(actual, expected)


@pytest.mark.parametrize("maker", MAKERS)
def test_nothing_is_recorded_while_tracing_is_suspended(maker: str, mode: Any) -> None:
    def function(x: Tensor) -> Tensor:
        with hopyard.tracing.suspended():
            shape = (x + 1).sin().shape
        return x.reshape(shape).cos()

    graph_module = MAKERS[maker](function, tracing_mode=mode)(torch.ones(3))
    operations = [str(node.target) for node in graph_module.graph.nodes]
    # A symbolic size is read off the input.
    operations = [name for name in operations if name != "aten.sym_size.int"]
    assert operations[1:-1] == ["aten.view.default", "aten.cos.default"]
