"""What a graph may consist of, and that a graph which is not so is refused by naming the node."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from hopyard import make_fx
from hopyard.errors import VerificationError
from hopyard.hops import bind
from hopyard.verify import count_nodes, verify, walk_graphs
from hopyard_hookspecs import Hop

aten = torch.ops.aten
X = torch.linspace(-1, 1, 12).reshape(3, 4)


def called(body: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    return body(*operands)


REGION = bind(Hop("structure_tests__region", eager=called))


def several(x: Tensor, count: int = 3) -> list[Tensor]:
    values, indices = x.topk(2)
    constant = torch.tensor([1.0, 2.0])
    grads = aten.native_layer_norm_backward(
        x, x, [4], x.mean(-1, True), x.mean(-1, True), None, None, [True, False, False]
    )
    x.sin().t_().add_(1)
    return [values * constant + count, indices, grads[0]]


def nested(x: Tensor) -> Tensor:
    return REGION(lambda y: REGION(lambda z: z.cos(), y.sin()), x) + 1


@pytest.fixture(params=["fake", "real"])
def graph_module(request: pytest.FixtureRequest) -> GraphModule:
    return make_fx(lambda x: torch.relu(x) + x, tracing_mode=request.param)(X)


@pytest.mark.parametrize("tracing_mode", ["fake", "real"])
@pytest.mark.parametrize("function", [several, nested, lambda x: x, lambda x: None])
def test_what_the_tracer_makes_is_sound(function: Callable[..., object], tracing_mode: str) -> None:
    args = (X, 3) if function is several else (X,)
    verify(make_fx(function, tracing_mode=tracing_mode)(*args), propagate=True)


def relu_of(graph_module: GraphModule) -> Node:
    return graph_module.graph.find_nodes(op="call_function", target=aten.relu.default)[0]


def late_input(graph_module: GraphModule) -> None:
    with graph_module.graph.inserting_after(relu_of(graph_module)):
        graph_module.graph.placeholder("relu_too")


def no_output(graph_module: GraphModule) -> None:
    graph_module.graph.erase_node(graph_module.graph.output_node())


def two_outputs(graph_module: GraphModule) -> None:
    graph_module.graph.output(relu_of(graph_module))


def after_output(graph_module: GraphModule) -> None:
    relu = graph_module.graph.call_function(aten.relu.default, (relu_of(graph_module),))
    relu.name = "relu_after"


def method(graph_module: GraphModule) -> None:
    with graph_module.graph.inserting_after(relu_of(graph_module)):
        graph_module.graph.call_method("relu", (relu_of(graph_module),))


def module(graph_module: GraphModule) -> None:
    graph_module.relu = torch.nn.ReLU()
    with graph_module.graph.inserting_after(relu_of(graph_module)):
        graph_module.graph.call_module("relu", (relu_of(graph_module),))


def function_of_torch(graph_module: GraphModule) -> None:
    relu_of(graph_module).target = torch.relu


def packet(graph_module: GraphModule) -> None:
    relu_of(graph_module).target = aten.relu


def python_function(graph_module: GraphModule) -> None:
    relu_of(graph_module).target = several


def missing_attribute(graph_module: GraphModule) -> None:
    relu = relu_of(graph_module)
    with graph_module.graph.inserting_before(relu):
        read = graph_module.graph.create_node("get_attr", "relu.weight")
    relu.args = (read,)


def constant_without_value(graph_module: GraphModule) -> None:
    graph_module.register_buffer("relu_constant", X)
    with graph_module.graph.inserting_before(relu_of(graph_module)):
        graph_module.graph.get_attr("relu_constant")


def no_value(graph_module: GraphModule) -> None:
    del relu_of(graph_module).meta["val"]


def used_too_early(graph_module: GraphModule) -> None:
    relu = relu_of(graph_module)
    relu.args[0].prepend(relu)  # type: ignore[union-attr]


def foreign(graph_module: GraphModule) -> None:
    relu_of(graph_module).args = (Graph().placeholder("relu_elsewhere"),)


def namesake(graph_module: GraphModule) -> None:
    graph_module.graph.find_nodes(op="call_function", target=aten.add.Tensor)[0].name = "relu"


@pytest.mark.parametrize(
    "spoil",
    [
        late_input,
        after_output,
        method,
        module,
        function_of_torch,
        packet,
        python_function,
        missing_attribute,
        constant_without_value,
        no_value,
        foreign,
        namesake,
    ],
)
def test_a_fault_is_found_and_its_node_named(
    spoil: Callable[[GraphModule], object], graph_module: GraphModule
) -> None:
    spoil(graph_module)
    with pytest.raises(VerificationError, match="relu") as caught:
        verify(graph_module)
    assert caught.value.stage == "verify"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("spoil", [no_output, two_outputs, used_too_early])
def test_inputs_come_first_and_one_output_last(
    spoil: Callable[[GraphModule], object], graph_module: GraphModule
) -> None:
    spoil(graph_module)
    with pytest.raises(VerificationError):
        verify(graph_module)


@pytest.mark.parametrize("target", [operator.add, torch.sym_max, max])
def test_functions_of_numbers_are_allowed(target: object, graph_module: GraphModule) -> None:
    relu = relu_of(graph_module)
    with graph_module.graph.inserting_before(relu):
        graph_module.graph.call_function(target, (1, 2)).meta["val"] = 3  # type: ignore[arg-type]
    verify(graph_module)


@pytest.mark.parametrize("spoil", [no_value, used_too_early, function_of_torch])
def test_bodies_of_regions_are_checked(spoil: Callable[[GraphModule], object]) -> None:
    graph_module = make_fx(lambda x: REGION(lambda y: torch.relu(y) + y, x), tracing_mode="fake")(X)
    (path, body) = list(walk_graphs(graph_module))[1]
    spoil(body)
    with pytest.raises(VerificationError, match=path):
        verify(graph_module)


def test_graphs_are_walked_from_the_outside_in() -> None:
    graph_module = make_fx(nested, tracing_mode="fake")(X)
    walked = list(walk_graphs(graph_module))
    assert walked[0] == ("", graph_module)
    assert [path.count(".") for path, _ in walked[1:]] == [0, 1]
    assert count_nodes(graph_module) == sum(len(body.graph.nodes) for _, body in walked)
