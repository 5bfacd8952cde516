from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.fx import Graph, GraphModule, Node

from hopyard_fold_scale.passes import FoldScale

MUL = torch.ops.aten.mul.Tensor


def scaled(*constants: object, dtype: torch.dtype = torch.float32) -> GraphModule:
    """Return a graph that multiplies its input by one constant after the other."""

    def build(graph: Graph, x: Node) -> Node:
        for constant in constants:
            x = call(graph, MUL, x, constant)
        return x

    return graph_of(build, dtype)


def call(graph: Graph, target: Callable[..., object], *args: object) -> Node:
    node = graph.call_function(target, args)
    values = [arg.meta["val"].clone() if isinstance(arg, Node) else arg for arg in args]
    node.meta["val"] = target(*values)
    return node


def graph_of(
    build: Callable[[Graph, Node], object], dtype: torch.dtype = torch.float32
) -> GraphModule:
    graph = Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2, 3, dtype=dtype, device="meta")
    graph.output(build(graph, x))
    return GraphModule(torch.nn.Module(), graph)


def constants_in(graph_module: GraphModule) -> list[object]:
    return [node.args[1] for node in graph_module.graph.nodes if node.target is MUL]


def sample(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.linspace(-3, 3, 6, dtype=torch.float64).reshape(2, 3).to(dtype)


@pytest.mark.parametrize(
    ("factor", "constants", "expected"),
    [
        (1.0, (8.0, 0.125), [1.0]),
        (1.0, (8.0, -0.125), [-1.0]),
        (1.0, (8.0, 0.25), [8.0, 0.25]),
        (2.0, (8.0, 0.25), [2.0]),
        (10.0, (2, 2, 2), [8.0]),
        (10.0, (100.0, 0.1, 0.5), [5.0]),
        (10.0, (0.1, 0.1, 0.1), [0.1, 0.1, 0.1]),
        (10.0, (3.0,), [3.0]),
        (10.0, (0.0, 1.0), [0.0, 1.0]),
        (10.0, (float("nan"), 1.0), None),
        (10.0, (True, 2.0), [True, 2.0]),
    ],
)
def test_a_chain_is_folded_if_its_product_is_near_enough_to_one(
    factor: float, constants: tuple[object, ...], expected: list[object] | None
) -> None:
    graph_module = scaled(*constants)
    result = FoldScale(factor)(graph_module)
    remaining = constants_in(result.graph_module)
    if expected is None:
        assert len(remaining) == len(constants)
    else:
        assert remaining == pytest.approx(expected)
    assert result.modified == (len(remaining) < len(constants))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_is_the_same_up_to_rounding(dtype: torch.dtype) -> None:
    graph_module = scaled(3.7, 0.11, 2.3, dtype=dtype)
    expected = graph_module(sample(dtype))
    result = FoldScale(10.0)(graph_module)
    result.graph_module.graph.lint()
    torch.testing.assert_close(result.graph_module(sample(dtype)), expected, rtol=1e-6, atol=0)


def test_metadata_stays_right() -> None:
    result = FoldScale(10.0)(scaled(2.0, 3.0))
    (node,) = (node for node in result.graph_module.graph.nodes if node.target is MUL)
    actual = node.target(node.args[0].meta["val"], node.args[1])
    assert (node.meta["val"].shape, node.meta["val"].dtype) == (actual.shape, actual.dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_other_precisions_are_left_alone(dtype: torch.dtype) -> None:
    assert not FoldScale(10.0)(scaled(2, 3, dtype=dtype)).modified


def test_a_change_of_precision_on_the_way_ends_the_chain() -> None:
    graph_module = scaled(2, 3.0, 2.0, dtype=torch.int64)  # integers, then float32
    expected = graph_module(sample(torch.int64))
    result = FoldScale(10.0)(graph_module)
    assert constants_in(result.graph_module) == [2, 3.0, 2.0]
    torch.testing.assert_close(result.graph_module(sample(torch.int64)), expected)


def test_a_product_that_somebody_else_needs_is_kept() -> None:
    def build(graph: Graph, x: Node) -> tuple[Node, Node]:
        first = call(graph, MUL, x, 2.0)
        return first, call(graph, MUL, first, 3.0)

    assert not FoldScale(10.0)(graph_of(build)).modified


def test_an_operand_that_is_changed_in_place_afterwards_is_read_before() -> None:
    def build(graph: Graph, x: Node) -> Node:
        first = call(graph, MUL, x, 2.0)
        call(graph, torch.ops.aten.add_.Tensor, x, 1.0)
        return call(graph, MUL, first, 3.0)

    graph_module = graph_of(build)
    expected = graph_module(sample())
    result = FoldScale(10.0)(graph_module)
    assert result.modified
    torch.testing.assert_close(result.graph_module(sample()), expected, rtol=1e-6, atol=0)


def test_two_chains_in_one_graph_are_both_folded() -> None:
    def build(graph: Graph, x: Node) -> tuple[Node, Node]:
        one = call(graph, MUL, call(graph, MUL, x, 2.0), 0.5)
        other = call(graph, MUL, call(graph, MUL, x, 3.0), 2.0)
        return one, other

    result = FoldScale(10.0)(graph_of(build))
    assert constants_in(result.graph_module) == [1.0, 6.0]


@pytest.mark.parametrize("factor", [0.5, -1.0, float("inf"), float("nan")])
def test_a_factor_that_bounds_nothing_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="factor must be"):
        FoldScale(factor)
