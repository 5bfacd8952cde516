"""Captures inside captures, and who is recording meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.errors import CaptureError, UsageError
from hopyard.testing import assert_same_graph
from hopyard.tracing import (
    TracingMode,
    active_tracer,
    disable_proxy_modes_tracing,
    fake_signature,
    get_innermost_proxy_mode,
    get_isolated_graphmodule,
    get_proxy_mode,
    trace_subgraph,
    wrapper_and_args_for_make_fx,
)

aten = torch.ops.aten


def operations(graph_module: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]


def test_who_records() -> None:
    seen: list[Any] = []

    def inner(y: Tensor) -> Tensor:
        seen.append(get_proxy_mode())
        return y.cos()

    def outer(x: Tensor) -> Tensor:
        seen.append(get_proxy_mode())
        torch_make_fx(inner)(x)
        hopyard.make_fx(inner)(x)
        with disable_proxy_modes_tracing() as suspended:
            assert suspended is seen[0]
            assert get_proxy_mode() is get_innermost_proxy_mode() is None
            assert active_tracer() is not None
        assert get_proxy_mode() is get_innermost_proxy_mode() is seen[0]
        assert proxy_tensor.get_proxy_mode() is seen[0]
        return x.sin()

    assert get_proxy_mode() is None
    graph_module = hopyard.make_fx(outer)(torch.ones(2))
    assert operations(graph_module) == ["aten.sin.default"]
    first, theirs, ours = seen
    assert isinstance(first, TracingMode)
    assert type(theirs) is proxy_tensor.ProxyTorchDispatchMode
    assert isinstance(ours, TracingMode)
    assert ours is not first
    assert get_proxy_mode() is None
    assert active_tracer() is None


def test_nobody_records_on_another_thread() -> None:
    def function(x: Tensor) -> Tensor:
        def look() -> None:
            seen.append((get_proxy_mode(), active_tracer()))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return x + 1

    seen: list[Any] = []
    hopyard.make_fx(function)(torch.ones(2))
    assert seen == [(None, None)]


def test_suspending_without_a_capture_is_nothing() -> None:
    with disable_proxy_modes_tracing() as suspended:
        assert suspended is None


def test_an_error_while_suspended_resumes() -> None:
    def function(x: Tensor) -> Tensor:
        with suppress(ZeroDivisionError), disable_proxy_modes_tracing():
            x.cos()
            raise ZeroDivisionError
        return x.sin()

    assert operations(hopyard.make_fx(function)(torch.ones(2))) == ["aten.sin.default"]


def scaled(x: Tensor, *, factor: int, shift: Tensor) -> Tensor:
    return x * factor + shift


@pytest.mark.parametrize(
    ("outer", "isolated"),
    [
        (hopyard.make_fx, get_isolated_graphmodule),
        (hopyard.make_fx, proxy_tensor.get_isolated_graphmodule),
        (torch_make_fx, get_isolated_graphmodule),
    ],
    ids=["ours", "torch's in ours", "ours in torch's"],
)
def test_an_isolated_capture(outer: Any, isolated: Any, mode: Any) -> None:
    def capture(make_fx: Any, isolate: Any) -> list[torch.fx.GraphModule]:
        graphs: list[torch.fx.GraphModule] = []

        def function(x: Tensor, y: Tensor) -> Tensor:
            hidden = x + 1
            kwargs = {"factor": 3, "shift": y}
            graphs.append(isolate(scaled, (hidden,), kwargs, mode))
            return hidden.sin()

        return [make_fx(function, tracing_mode=mode)(torch.ones(2), torch.ones(2)), *graphs]

    ours = capture(outer, isolated)
    for actual, expected in zip(
        ours, capture(torch_make_fx, proxy_tensor.get_isolated_graphmodule), strict=True
    ):
        assert_same_graph(actual, expected)
        assert actual.code == expected.code
    assert operations(ours[0]) == ["aten.add.Tensor", "aten.sin.default"]
    assert operations(ours[1]) == ["aten.mul.Tensor", "aten.add.Tensor"]


def test_an_isolated_capture_decomposes_as_it_is_told() -> None:
    table: dict[Any, Callable[..., Any]] = {aten.silu.default: lambda x: x * torch.sigmoid(x)}
    graph_module = get_isolated_graphmodule(
        torch.nn.functional.silu, (torch.ones(2),), {}, decomposition_table=table
    )
    assert operations(graph_module) == ["aten.sigmoid.default", "aten.mul.Tensor"]


def test_keywords_for_make_fx() -> None:
    x, shift = torch.ones(2), torch.zeros(2)
    wrapped, leaves = wrapper_and_args_for_make_fx(scaled, (x,), {"factor": 3, "shift": shift})
    expected = proxy_tensor.wrapper_and_args_for_make_fx(
        scaled, (x,), {"factor": 3, "shift": shift}
    )
    assert wrapped(leaves).equal(scaled(x, factor=3, shift=shift))
    assert all(one is other for one, other in zip(leaves, expected[1], strict=True))
    assert_same_graph(hopyard.make_fx(wrapped)(leaves), torch_make_fx(expected[0])(expected[1]))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_signature_of_so_many_arguments(count: int) -> None:
    def total(*values: Any) -> Any:
        return sum(values)

    named = fake_signature(total, count)
    theirs = proxy_tensor.fake_signature(total, count)
    assert named.__code__.co_varnames == theirs.__code__.co_varnames
    assert named(*range(count)) == total(*range(count))
    with pytest.raises(TypeError):
        named(*range(count + 1))
    assert len(torch.fx.Tracer().trace(named).find_nodes(op="placeholder")) == count


def test_a_body_is_traced_as_the_capture_around_it(mode: Any) -> None:
    table: dict[Any, Callable[..., Any]] = {aten.silu.default: lambda x: x * torch.sigmoid(x)}
    bodies: list[torch.fx.GraphModule] = []

    def body(x: Tensor) -> Tensor:
        return torch.nn.functional.silu(x)

    def function(x: Tensor) -> Tensor:
        bodies.append(trace_subgraph(body, x))
        bodies.append(trace_subgraph(body, x, decomposition_table={}))
        return x.sin()

    graph_module = hopyard.make_fx(function, table, mode)(torch.ones(2))
    assert operations(graph_module) == ["aten.sin.default"]
    assert operations(bodies[0]) == ["aten.sigmoid.default", "aten.mul.Tensor"]
    assert operations(bodies[1]) == ["aten.silu.default"]
    if mode == "fake":
        values = [next(iter(each.graph.nodes)).meta["val"] for each in (graph_module, *bodies)]
        assert len({value.fake_mode for value in values}) == 1


def test_a_body_needs_a_capture() -> None:
    with pytest.raises(UsageError):
        trace_subgraph(torch.sin, torch.ones(1))


def test_a_body_that_fails_fails_the_capture_and_shows_how_far_it_came(mode: Any) -> None:
    def body(x: Tensor) -> Tensor:
        x.cos()
        raise ZeroDivisionError

    def function(x: Tensor) -> Tensor:
        x.sin()
        trace_subgraph(body, x)
        return x

    with pytest.raises(CaptureError) as raised:
        hopyard.make_fx(function, tracing_mode=mode)(torch.ones(2))
    graph = raised.value.partial_graph
    assert graph is not None
    assert [node.name for node in graph.nodes] == ["x_1", "cos"]
    assert raised.value.location is not None
    assert raised.value.location.function.endswith("body")
