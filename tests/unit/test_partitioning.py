"""Partitions of graphs: which nodes they take, and that outlining them changes nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase
from torch.nn import Module
from torch.testing import assert_close

from hopyard import make_fx
from hopyard.errors import UsageError
from hopyard.partitioning import (
    Call,
    Partition,
    Subgraph,
    changes_operands,
    draws_random_numbers,
    outline,
    partition,
)

aten = torch.ops.aten
X = torch.linspace(0.1, 1, 4)


def run(module: Module, *inputs: Any) -> Any:
    return module(*inputs)


def call(subgraph: Subgraph) -> Call:
    return Call(run, subgraph.graph_module)


def graph_of(function: Callable[..., Any], *inputs: Any) -> GraphModule:
    return make_fx(function, tracing_mode="fake")(*(inputs or (X,)))


def deterministic(node: Node) -> bool:
    return not draws_random_numbers(node)


def named(partitions: Collection[Partition]) -> list[list[str]]:
    return [[node.name for node in each.nodes] for each in partitions]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[GraphModule, set[str]]:
    """A random graph and the names of the nodes that a backend would take."""
    graph = Graph()
    nodes = [graph.placeholder("x"), graph.placeholder("y")]
    supported = set()
    for _ in range(draw(st.integers(1, 14))):
        one, other = draw(st.sampled_from(nodes)), draw(st.sampled_from(nodes))
        kind = draw(st.sampled_from(["binary", "unary", "random", "several"]))
        if kind == "several":
            producer = graph.call_function(aten.sort.default, (one,))
            producer.meta["val"] = (X, X.long())
            made = graph.call_function(operator.getitem, (producer, 0))
        else:
            target = {"binary": aten.add.Tensor, "unary": aten.tanh.default}
            args = (one, other) if kind == "binary" else (one,)
            made = graph.call_function(target.get(kind, aten.rand_like.default), args)
            producer = made
        made.meta["val"] = X
        if draw(st.booleans()):
            supported.add(producer.name)
        nodes.append(made)
    results = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3))
    graph.output(tuple(results))
    return GraphModule({}, graph), supported


class Support(OperatorSupportBase):
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def is_node_supported(self, submodules: Any, node: Node) -> bool:
        return node.name in self.names


def seeded(module: Module) -> Any:
    torch.manual_seed(11)
    return module(X, X * 2)


@given(graphs())
def test_any_graph_computes_the_same_with_its_partitions_outlined(
    drawn: tuple[GraphModule, set[str]],
) -> None:
    graph_module, supported = drawn
    before = str(graph_module.graph)
    partitions = partition(graph_module, lambda node: node.name in supported)
    outlined = outline(graph_module, partitions, call)
    outlined.graph.lint()
    assert_close(seeded(outlined), seeded(graph_module), rtol=0, atol=0)
    assert str(graph_module.graph) == before
    taken = [node for each in partitions for node in each.nodes]
    operators = [node.name for node in taken if node.target is not operator.getitem]
    assert len(taken) == len(set(taken))
    assert set(operators) == supported
    calls = outlined.graph.find_nodes(op="call_function", target=run)
    assert len(calls) == len(partitions)


@given(graphs())
def test_there_are_no_more_partitions_than_torch_finds(
    drawn: tuple[GraphModule, set[str]],
) -> None:
    graph_module, supported = drawn
    for node in graph_module.graph.nodes:  # torch does not keep the order of random numbers
        if draws_random_numbers(node):
            node.target = aten.exp.default
    torchs = CapabilityBasedPartitioner(
        graph_module, Support(supported), allows_single_node_partition=True
    ).propose_partitions()
    assert len(partition(graph_module, lambda node: node.name in supported)) <= len(torchs)


def test_a_chain_is_one_partition() -> None:
    graph_module = graph_of(lambda x: x.sin().cos().exp())
    assert named(partition(graph_module, deterministic)) == [["sin", "cos", "exp"]]


def test_a_diamond_around_an_unsupported_node_is_split() -> None:
    def diamond(x: torch.Tensor) -> torch.Tensor:
        top = x.sin()
        return top.cos() * torch.rand_like(top)

    assert named(partition(graph_of(diamond), deterministic)) == [["sin"], ["cos", "mul"]]


def test_a_node_lies_with_what_uses_it() -> None:
    def late(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        transposed = weight.t()
        return torch.rand_like(x.sin()) @ transposed

    graph_module = graph_of(late, torch.ones(2, 3), torch.ones(4, 3))
    assert named(partition(graph_module, deterministic)) == [["sin"], ["t", "mm"]]


def test_outputs_of_an_operator_are_picked_in_its_partition() -> None:
    def several(x: torch.Tensor) -> torch.Tensor:
        values, indices = x.sort()
        return torch.rand_like(values) + indices

    first, second = partition(graph_of(several), deterministic)
    assert named([first, second]) == [["sort", "getitem", "getitem_1"], ["add"]]
    assert first.size == 1


def test_unsupported_operators_keep_what_they_return() -> None:
    graph_module = graph_of(lambda x: x.sort()[0].sin())
    found = partition(graph_module, lambda node: node.target is not aten.sort.default)
    assert named(found) == [["sin"]]


def test_an_operator_whose_tuple_is_used_whole_is_left() -> None:
    graph = Graph()
    sort = graph.call_function(aten.sort.default, (graph.placeholder("x"),))
    sort.meta["val"] = (X, X.long())
    graph.output(sort)
    assert partition(GraphModule({}, graph), lambda node: True) == ()


def test_small_partitions_are_left_out() -> None:
    graph_module = graph_of(lambda x: torch.rand_like(x.sin()).cos().exp())
    assert named(partition(graph_module, deterministic, minimum=2)) == [["cos", "exp"]]


def test_random_operators_keep_their_order() -> None:
    def crossing(x: torch.Tensor) -> torch.Tensor:
        early = x.sin()
        first = torch.rand_like(early)
        second = torch.rand_like(x)
        return first + (x + second).cos() * early

    graph_module = graph_of(crossing)
    outlined = outline(graph_module, partition(graph_module, deterministic), call)
    torch.manual_seed(5)
    expected = crossing(X)
    torch.manual_seed(5)
    assert_close(outlined(X), expected, rtol=0, atol=0)


def test_metadata_is_right_on_every_node() -> None:
    graph_module = graph_of(lambda x: torch.rand_like(x.sin()).sort()[1])
    outlined = outline(graph_module, partition(graph_module, deterministic), call)
    originals = {node.name: node for node in graph_module.graph.nodes}
    first, second = outlined.graph.find_nodes(op="call_function", target=run)
    (picked,) = first.users
    assert first.meta["val"] == (originals["sin"].meta["val"],)
    assert picked.meta == originals["sin"].meta
    assert second.meta["val"] == (originals["getitem_1"].meta["val"],)


def test_a_subgraph_says_what_it_reads_and_returns() -> None:
    seen: list[Subgraph] = []

    def record(subgraph: Subgraph) -> Call:
        seen.append(subgraph)
        return call(subgraph)

    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        product = x * y
        return product, product.sin() + x

    graph_module = graph_of(function, X, X * 2)
    outline(graph_module, partition(graph_module, deterministic), record)
    (subgraph,) = seen
    assert [node.name for node in subgraph.inputs] == ["x_1", "y_1"]
    assert [node.name for node in subgraph.outputs] == ["mul", "add"]
    inside = subgraph.graph_module.graph
    assert all("val" in node.meta for node in inside.find_nodes(op="placeholder"))
    assert_close(subgraph.graph_module(X, X), function(X, X))


def test_partitions_that_need_each_other_are_refused() -> None:
    graph_module = graph_of(lambda x: x.sin().cos().exp())
    sin, cos, exp = (node for node in graph_module.graph.nodes if node.op == "call_function")
    with pytest.raises(UsageError, match="cycle"):
        outline(graph_module, [Partition((sin, exp)), Partition((cos,))], call)
    with pytest.raises(UsageError, match="cos is in two partitions"):
        outline(graph_module, [Partition((sin, cos)), Partition((cos,))], call)
    with pytest.raises(UsageError, match="sin is of another graph"):
        outline(graph_of(lambda x: x.sin()), [Partition((sin,))], call)


def test_operators_are_known_by_what_they_do() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y.add_(1)
        return y + torch.rand_like(y)

    by_name = {node.name: node for node in graph_of(function).graph.nodes}
    assert [name for name, node in by_name.items() if changes_operands(node)] == ["add_"]
    assert [name for name, node in by_name.items() if draws_random_numbers(node)] == ["rand_like"]


@pytest.mark.parametrize(("dropout", "random"), [(0.0, False), (0.5, True)])
def test_attention_is_random_only_with_dropout(dropout: float, random: bool) -> None:
    graph = Graph()
    q = graph.placeholder("q")
    target = aten._scaled_dot_product_flash_attention_for_cpu.default
    assert draws_random_numbers(graph.call_function(target, (q, q, q, dropout))) is random
    assert draws_random_numbers(graph.call_function(target, (q, q, q))) is False
    keyword = graph.call_function(target, (q, q, q), {"dropout_p": dropout})
    assert draws_random_numbers(keyword) is random
