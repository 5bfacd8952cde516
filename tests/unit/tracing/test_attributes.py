"""Which attributes of the graph module `get_attr` nodes read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard

cond = torch.ops.higher_order.cond
SEVERAL = [torch.full((3,), float(index)) for index in range(6)]
WEIGHT = nn.Parameter(torch.full((3,), 2.0), requires_grad=False)


def after_bodies(x: Tensor) -> Tensor:
    x = x + SEVERAL[0]
    (y,) = cond(
        x.sum() > 0,
        lambda y: (y + SEVERAL[1] + SEVERAL[2] + SEVERAL[3],),
        lambda y: (y + SEVERAL[1],),
        (x,),
    )
    return y + SEVERAL[4] + SEVERAL[5]


def same_in_body(x: Tensor) -> Tensor:
    (y,) = cond(x.sum() > 0, lambda y: (y * WEIGHT,), lambda y: (y - WEIGHT,), (x,))
    return y * WEIGHT


def test_numbers_go_on_from_those_of_bodies() -> None:
    targets = []
    for make in (torch_make_fx, hopyard.make_fx):
        graph_module = make(after_bodies)(torch.ones(3))
        targets.append([node.target for node in graph_module.graph.find_nodes(op="get_attr")])
    assert targets[0] == targets[1]


def test_a_parameter_of_a_body_can_be_used_after_it() -> None:
    with pytest.raises(AttributeError):  # torch looks up "true_graph_0._param_constant0"
        torch_make_fx(same_in_body)(torch.ones(3))
    graph_module = hopyard.make_fx(same_in_body)(torch.ones(3))
    for x in (torch.ones(3), -torch.ones(3)):
        torch.testing.assert_close(graph_module(x), same_in_body(x))


def test_a_module_input_that_is_recorded_is_called_in_the_graph() -> None:
    module = nn.Linear(3, 3)

    def program(given: Any, x: Tensor) -> Any:
        return given(x + 1), given.weight

    graph_module = hopyard.make_fx(program, proxy_module_inputs=True)(module, torch.ones(2, 3))
    expected = torch_make_fx(program, proxy_module_inputs=True)(module, torch.ones(2, 3))
    kinds = [(node.op, node.name) for node in graph_module.graph.nodes]
    # torch passes the module what `x + 1` was for the example input, as a constant.
    assert kinds == [(node.op, node.name) for node in expected.graph.nodes if node.op != "get_attr"]
    with torch.no_grad():
        result, weight = graph_module(module, torch.zeros(2, 3))
        torch.testing.assert_close(result, module(torch.ones(2, 3)))
    assert weight is module.weight
