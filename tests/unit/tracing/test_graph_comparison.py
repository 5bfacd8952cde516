"""`hopyard.testing`: how graphs are compared, and what the difference reads like."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule

import hopyard
from hopyard.hops import bind
from hopyard.testing import (
    AtomDescription,
    NodeReference,
    TensorDescription,
    assert_same_graph,
    describe_graph,
    plugin_session,
)
from hopyard_hookspecs import Hop, hookimpl

REGION = bind(Hop("comparison_tests__region"))
X = torch.ones(2, 3)


def captured(function: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    return hopyard.make_fx(function)(*(inputs or (X,)))


def program(x: Tensor) -> tuple[Tensor, Tensor]:
    values, _ = torch.sort(x + 1, dim=1)
    return values.t(), REGION(lambda y: y * 2 + torch.tensor([1.0, 2.0, 3.0]), x)


def test_a_graph_is_the_same_as_itself_and_as_another_capture() -> None:
    graph_module = captured(program)
    assert_same_graph(graph_module, graph_module)
    assert_same_graph(graph_module, captured(program))
    assert describe_graph(graph_module) == describe_graph(captured(program))


def test_names_are_described_and_not_compared() -> None:
    def other(value: Tensor) -> tuple[Tensor, Tensor]:
        return program(value)

    assert_same_graph(captured(other), captured(program))
    assert describe_graph(captured(other)) != describe_graph(captured(program))


def test_a_description_reads_as_the_graph() -> None:
    description = describe_graph(captured(lambda x: torch.add(x, 2, alpha=3)))
    _, add, output = description.nodes
    assert (add.name, add.operation, add.target) == ("add", "call_function", "aten.add.Tensor")
    assert add.arguments.items == (NodeReference(0), AtomDescription("int", "2"))
    assert dict(add.keywords.items) == {"alpha": AtomDescription("int", "3")}
    assert isinstance(add.value, TensorDescription)
    assert add.value == TensorDescription(
        shape=(2, 3),
        stride=(3, 1),
        dtype="float32",
        device="cpu",
        layout="strided",
        storage_offset=0,
        storage_bytes=24,
        requires_grad=False,
        alias_group=1,
    )
    assert output.target == ""
    assert "%1 add = call_function aten.add.Tensor (%0, 2) {alpha: 3}" in str(description)


def test_regions_and_constants_are_part_of_a_description() -> None:
    description = describe_graph(captured(program))
    (name,) = description.regions
    assert description.regions[name].nodes[0].operation == "placeholder"
    assert description.regions[name].constants == {"_tensor_constant0": "[1.0, 2.0, 3.0]"}
    assert name in str(description)


def graph_of(build: Callable[[Graph, Any], Any]) -> GraphModule:
    graph = Graph()
    graph.output(build(graph, graph.placeholder("x")))
    return GraphModule({"weight": X, "other": X}, graph)


def call(target: Any, *args: Any, **kwargs: Any) -> Callable[[Graph, Any], Any]:
    return lambda graph, x: graph.call_function(
        target, tuple(x if arg is X else arg for arg in args), kwargs
    )


SAME = {
    "order of keywords": (call(torch.add, X, a=1, b=2), call(torch.add, X, b=2, a=1)),
    "nan": (call(torch.add, X, float("nan")), call(torch.add, X, float("nan"))),
    "torch.Size": (call(torch.add, X, torch.Size([1])), call(torch.add, X, torch.Size([1]))),
}
DIFFERENT = {
    "target": (call(torch.add, X), call(torch.sub, X)),
    "overload": (call(torch.ops.aten.add.Tensor, X), call(torch.ops.aten.add.Scalar, X)),
    "function of another module": (call(operator.add, X, 1), call(torch.add, X, 1)),
    "int and float": (call(torch.add, X, 1), call(torch.add, X, 1.0)),
    "int and bool": (call(torch.add, X, 1), call(torch.add, X, True)),
    "sign of zero": (call(torch.add, X, 0.0), call(torch.add, X, -0.0)),
    "list and tuple": (call(torch.add, X, [1]), call(torch.add, X, (1,))),
    "text and number": (call(torch.add, X, "1"), call(torch.add, X, 1)),
    "slice": (call(operator.getitem, X, slice(1)), call(operator.getitem, X, slice(1, None))),
    "keyword": (call(torch.add, X, a=1), call(torch.add, X, b=1)),
    "argument by keyword": (call(torch.add, X, 1), call(torch.add, X, other=1)),
    "dtype and text": (call(torch.add, X, torch.int8), call(torch.add, X, "torch.int8")),
    "attribute": (
        lambda graph, x: graph.get_attr("weight"),
        lambda graph, x: graph.get_attr("other"),
    ),
    "structure of the output": (lambda graph, x: (x, x), lambda graph, x: ((x,), x)),
    "which node": (
        lambda graph, x: (graph.call_function(abs, (x,)), x),
        lambda graph, x: (x, graph.call_function(abs, (x,))),
    ),
    "length": (lambda graph, x: graph.call_function(abs, (x,)), lambda graph, x: x),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_what_does_not_count(pair: tuple[Any, Any]) -> None:
    assert_same_graph(*map(graph_of, pair))


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_what_counts(pair: tuple[Any, Any]) -> None:
    one, other = map(graph_of, pair)
    for actual, expected in ((one, other), (other, one)):
        with pytest.raises(AssertionError, match="the graphs differ at node") as raised:
            assert_same_graph(actual, expected)
        assert "actual:" in str(raised.value)
        assert "expected:" in str(raised.value)


METADATA = {
    "shape": lambda value: value[:1],
    "stride": lambda value: torch.empty_strided((2, 3), (1, 2)),
    "offset": lambda value: torch.empty(7)[1:].view(2, 3),
    "type": lambda value: value.double(),
    "device": lambda value: value.to("meta"),
    "layout": lambda value: value.to_sparse(),
    "requires grad": lambda value: value.detach().requires_grad_(),
    "storage": lambda value: torch.empty(9)[:6].view(2, 3),
    "list": lambda value: [value],
    "nothing": lambda value: None,
}


@pytest.mark.parametrize("change", METADATA.values(), ids=METADATA)
def test_metadata_counts_unless_it_is_left_out(change: Callable[[Tensor], Any]) -> None:
    one, other = captured(torch.sin), captured(torch.sin)
    node = one.graph.output_node().prev
    node.meta["val"] = change(torch.empty(2, 3))
    with pytest.raises(AssertionError, match=r"meta\['val'\]"):
        assert_same_graph(one, other)
    assert_same_graph(one, other, metadata=False)
    del node.meta["val"]
    with pytest.raises(AssertionError, match=r"meta\['val'\]"):
        assert_same_graph(one, other)


def test_who_shares_a_storage_counts() -> None:
    make = hopyard.make_fx(lambda x: x.t(), tracing_mode="fake")
    one, other = make(X), make(X)
    node = one.graph.output_node().prev
    node.meta["val"] = torch.empty_strided((3, 2), (1, 3))
    with pytest.raises(AssertionError, match="storage"):
        assert_same_graph(one, other)


def test_tensor_meta_counts() -> None:
    one, other = captured(torch.sin), captured(torch.sin)
    node = one.graph.output_node().prev
    node.meta["tensor_meta"] = node.meta["tensor_meta"]._replace(requires_grad=True)
    with pytest.raises(AssertionError, match="tensor_meta"):
        assert_same_graph(one, other)


def test_a_difference_in_a_region_says_which() -> None:
    one = captured(lambda x: REGION(lambda y: REGION(torch.sin, y), x))
    other = captured(lambda x: REGION(lambda y: REGION(torch.cos, y), x))
    with pytest.raises(AssertionError) as raised:
        assert_same_graph(one, other)
    assert "in region comparison_tests__region_body0.comparison_tests__region_body0" in str(
        raised.value
    )
    assert "aten.sin" in str(raised.value)


def test_a_region_is_no_constant() -> None:
    one, other = (captured(lambda x: REGION(torch.sin, x)) for _ in range(2))
    (name,) = describe_graph(one).regions
    delattr(other, name)
    setattr(other, name, X)
    for actual, expected in ((one, other), (other, one)):
        for constants in (True, False):
            with pytest.raises(AssertionError, match=f"{name} holds"):
                assert_same_graph(actual, expected, constants=constants)


@pytest.mark.parametrize("size", [3, 300])
def test_the_data_of_constants_counts_unless_asked_not_to(size: int) -> None:
    constant = torch.zeros(size)
    one = captured(lambda x: x + constant, torch.ones(size))
    changed = constant.clone()
    changed[-1] = 1
    other = captured(lambda x: x + changed, torch.ones(size))
    with pytest.raises(AssertionError, match="_tensor_constant0 holds"):
        assert_same_graph(one, other)
    assert_same_graph(one, other, constants=False)


def test_fake_and_sparse_constants_are_described() -> None:
    with torch._subclasses.FakeTensorMode() as fake:
        weight = torch.ones(3)
        graph_module = hopyard.make_fx(lambda x: x + weight, tracing_mode="fake")(torch.ones(3))
        assert describe_graph(graph_module).constants == {"_tensor_constant0": "no data"}
    assert fake
    sparse = captured(lambda x: x @ torch.eye(3).to_sparse())
    assert describe_graph(sparse)


def test_a_description_can_be_compared_with_a_graph() -> None:
    before = describe_graph(captured(torch.sin))
    assert_same_graph(captured(torch.sin), before)
    with pytest.raises(AssertionError):
        assert_same_graph(before, captured(torch.cos))


def test_symbolic_sizes_are_described_as_text() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    first, second = (make_fx(torch.sin, tracing_mode="symbolic")(X) for _ in range(2))
    assert_same_graph(first, second)
    value = describe_graph(first).nodes[0].value
    assert isinstance(value, TensorDescription)
    assert all(isinstance(length, str) for length in value.shape)


class Marks:
    @staticmethod
    @hookimpl
    def hopyard_register_hops() -> list[Hop]:
        return [Hop("comparison_tests__marked", summary="made by a plugin")]


def test_a_plugin_session_has_the_given_plugins_alone() -> None:
    session = plugin_session(Marks())
    assert list(session.hops) == ["comparison_tests__marked"]
    assert {info.provider.plugin for info in session.plugins.infos} == {"kernel", "marks"}
    assert [info.provider.plugin for info in plugin_session().plugins.infos] == ["kernel"]
