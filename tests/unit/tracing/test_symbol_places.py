"""A number that is used late stands where it was computed, under the name that it had then.

One that nothing uses is nowhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.fx.traceback import annotate, preserve_node_meta

import hopyard
from hopyard.tracing import get_proxy_mode
from hopyard.tracing.recording._nodes import NodeWriter

ARITHMETIC: tuple[Callable[[Any, Any], Any], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    torch.sym_max,
)

Steps = list[tuple[str, int, int, int]]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["compute", "compute", "compute", "use", "tensor", "read", "decide"]),
        st.integers(0, 20),
        st.integers(0, 20),
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=15,
)


def program(steps: Steps) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        numbers: list[Any] = [*x.shape, 1, 3]
        for kind, chosen, left, right in steps:
            if kind == "compute":
                function = ARITHMETIC[chosen % len(ARITHMETIC)]
                divisor = numbers[right % len(numbers)]
                if function is operator.floordiv:
                    divisor = 2
                numbers.append(function(numbers[left % len(numbers)], divisor))
            elif kind == "use":
                x = x * numbers[left % len(numbers)]
            elif kind == "tensor":
                x = x.sin()
            elif kind == "read":
                numbers += [x.numel(), x.stride(0)]
            elif numbers[left % len(numbers)] > chosen:
                x = x.cos()
        return x

    return run


def captured(make_fx: Any, function: Callable[..., Any]) -> GraphModule:
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        graph_module: GraphModule = make_fx(function, tracing_mode="symbolic")(torch.ones(5, 7))
    return graph_module


def described(graph: Graph) -> list[tuple[str, str, str]]:
    return [(node.name, str(node.target), str(node.args)) for node in graph.nodes]


@given(steps=STEPS)
def test_numbers_stand_where_torch_computes_them(steps: Steps) -> None:
    function = program(steps)
    expected = described(captured(torch_make_fx, function).graph)
    assert described(captured(hopyard.make_fx, function).graph) == expected


def late(x: Tensor) -> Tensor:
    with annotate({"first": 1}):
        first = x.shape[0] * 2
    assert x.shape[1] * 2 is not None
    x = x.sin()
    second = x.shape[0] * 3
    x = x.cos()
    return (x * second + first).sum()


@pytest.mark.parametrize("noting", [nullcontext, preserve_node_meta])
def test_a_late_use(noting: Callable[[], AbstractContextManager[Any]]) -> None:
    with noting():
        ours, expected = captured(hopyard.make_fx, late), captured(torch_make_fx, late)
    assert described(ours.graph) == described(expected.graph)
    names = [node.name for node in ours.graph.nodes]
    assert names.index("mul") < names.index("sin") < names.index("mul_2") < names.index("cos")
    assert "mul_1" not in names
    noted = [node.meta.get("custom") for node in ours.graph.nodes]
    assert noted == [node.meta.get("custom") for node in expected.graph.nodes]
    assert ({"first": 1} in noted) == (noting is preserve_node_meta)


def test_who_looks_at_the_graph_sees_every_number() -> None:
    seen: list[list[str]] = []

    def looks(x: Tensor) -> Tensor:
        assert x.shape[0] * 2 is not None
        x = x.sin()
        nodes = get_proxy_mode().tracer.graph.nodes
        seen.append([node.name for node in nodes])
        assert x.shape[1] * 2 is not None
        seen.append([node.name for node in nodes])
        return x

    ours, expected = captured(hopyard.make_fx, looks), captured(torch_make_fx, looks)
    assert described(ours.graph) == described(expected.graph)
    assert seen[:2] == seen[2:]
    assert seen[0][-3:] == ["sym_size_int", "mul", "sin"]
    assert seen[1][-3:] == ["sin", "sym_size_int_1", "mul_1"]


def test_chains_are_longer_than_calls_can_nest() -> None:
    def counts(x: Tensor) -> Tensor:
        number = x.shape[0]
        for _ in range(2000):
            number = number + x.shape[1]
        return x.sin() * number

    names = [node.name for node in captured(hopyard.make_fx, counts).graph.nodes]
    assert names[:3] == ["x_1", "sym_size_int", "sym_size_int_1"]
    assert names[-4:] == ["add_1999", "sin", "mul", "output"]


def test_places_are_filled_in_any_order_and_outlive_their_neighbours() -> None:
    graph = Graph()
    writer = NodeWriter(graph)
    before = writer.call(operator.add, (1, 2), None, "add")
    places = [writer.take_place("mul") for _ in range(3)]
    writer.call(operator.sub, (1, 2), None, "sub")
    graph.erase_node(before)
    for index in (2, 0, 1):
        writer.fill_place(places[index], operator.mul, (index, index))
    assert [node.name for node in graph.nodes] == ["mul", "mul_1", "mul_2", "sub"]
    assert [node.name for node in graph.find_nodes(op="call_function", target=operator.mul)] == [
        "mul",
        "mul_1",
        "mul_2",
    ]
    graph.lint()
