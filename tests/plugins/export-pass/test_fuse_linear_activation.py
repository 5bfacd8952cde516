"""`fuse-linear-activation`: a linear layer and relu become one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hopyard import Program, Session
from hopyard.hops import bind
from hopyard.pipeline import origin_of
from hopyard.verify import verify, walk_graphs
from hopyard_hookspecs import Hop

aten = torch.ops.aten
region = bind(Hop("fuse_tests__region"))
X = torch.linspace(-1, 1, 12).reshape(3, 4)


def count(program: Program, target: object) -> int:
    return sum(
        len(body.graph.find_nodes(op="call_function", target=target))
        for _, body in walk_graphs(program.graph_module)
    )


def fused(session: Session, target: Callable[..., Any], *inputs: Any, **how: Any) -> Program:
    program = session.capture(target, inputs or (X,), **how)
    result = session.run("fuse-linear-activation", program).program
    found, expected = result(*(inputs or (X,))), program(*(inputs or (X,)))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    verify(result.graph_module, propagate=True)
    return result


@pytest.mark.parametrize("how", [{}, {"pre_dispatch": True}])
def test_layers_are_fused(how: dict[str, Any], session: Session) -> None:
    first, second, third = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(x: Tensor) -> Any:
        hidden = first(x).relu()
        return third(second(hidden).relu())

    program = fused(session, forward, **how)
    assert count(program, aten._addmm_activation.default) == 2
    assert count(program, aten.relu.default) == 0
    nodes = program.graph.find_nodes(op="call_function", target=aten._addmm_activation.default)
    for node in nodes:
        origin = origin_of(node)
        assert origin is not None
        assert [name.split("_")[0] for name in origin.nodes][-1] == "relu"
        assert len(origin.nodes) == 2
        assert "stack_trace" in node.meta
        assert node.meta["tensor_meta"].shape == node.meta["val"].shape


def test_layers_in_regions_are_fused(session: Session) -> None:
    layer = nn.Linear(4, 4)
    program = fused(session, lambda x: region(lambda y: layer(y).relu(), x) + layer(x).relu())
    assert count(program, aten._addmm_activation.default) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_fused(dtype: torch.dtype, session: Session) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).to(dtype)
    assert count(fused(session, model, X.to(dtype)), aten._addmm_activation.default) == 1


def test_layers_of_more_dimensions_are_fused_when_decomposed(session: Session) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    cube = X.reshape(3, 2, 2).repeat(1, 1, 2)
    program = session.capture(model, (cube,), pre_dispatch=True)
    assert not session.run("fuse-linear-activation", program).records[0].modified


@pytest.mark.parametrize(
    "function",
    [
        lambda x, layer: layer(x).sigmoid(),
        lambda x, layer: layer(x).relu() + layer(x),
        lambda x, layer: nn.functional.linear(x, layer.weight).relu(),
        lambda x, layer: torch.addmm(layer.bias, x, layer.weight, beta=2).relu(),
        lambda x, layer: torch.addmm(layer.bias, x, layer.weight, alpha=0.5).relu(),
    ],
)
def test_what_is_no_such_layer_stays(function: Any, session: Session) -> None:
    layer = nn.Linear(4, 4)

    def target(x: Tensor) -> Any:
        return function(x, layer)

    program = session.run("cse", session.capture(target, (X,))).program
    assert not session.run("fuse-linear-activation", program).records[0].modified


def test_it_cannot_be_differentiated_and_says_so(session: Session) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    program = fused(session, model)
    with torch.enable_grad(), pytest.raises(RuntimeError, match="_addmm_activation"):
        program(X).sum().backward()


def test_dynamic_sizes_stay_dynamic(session: Session) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    batch = torch.export.Dim("batch", min=2, max=9)
    program = fused(session, model, X, dynamic_shapes=({0: batch},))
    assert count(program, aten._addmm_activation.default) == 1
    more = torch.randn(6, 4)
    torch.testing.assert_close(program(more), model(more))
