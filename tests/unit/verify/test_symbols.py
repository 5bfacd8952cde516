"""Whether every symbol that metadata speaks of comes from somewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from hopyard._graph_copy import copy_graph_module
from hopyard.errors import VerificationError
from hopyard.program import Program
from hopyard.session import Session
from hopyard.verify import verify, walk_graphs

aten = torch.ops.aten


class Dynamic(torch.nn.Module):
    """Sizes of inputs, sizes and numbers that depend on data, and regions that know of them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = x.sum().to(torch.int64).item()
        torch._check(count >= 0)
        torch._check(count < 9)
        found = torch.nonzero(x).to(torch.float32)
        doubled = torch.cond(x.sum() > 3, lambda y: y * 2.0, lambda y: y + 1.0, (x,))
        return doubled.sum() + found, torch.ones(count) + x.shape[0]


@pytest.fixture(scope="module")
def program() -> Program:
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    with torch.no_grad():
        return Session(discover=False).capture(
            Dynamic(), (torch.ones(5, 3),), dynamic_shapes={"x": batch}
        )


def find(graph_module: GraphModule, target: object) -> torch.fx.Node:
    return next(
        node
        for _, body in walk_graphs(graph_module)
        for node in body.graph.nodes
        if node.target is target
    )


def test_symbols_of_a_captured_program_are_bound(program: Program) -> None:
    verify(program.graph_module, propagate=True)
    assert "unbacked_bindings" in find(program.graph_module, aten.nonzero.default).meta


@pytest.mark.parametrize("target", [aten.nonzero.default, aten._local_scalar_dense.default])
def test_a_symbol_whose_maker_forgets_it_is_found(target: object, program: Program) -> None:
    graph_module = copy_graph_module(program.graph_module)
    node = find(graph_module, target)
    del node.meta["unbacked_bindings"]
    with pytest.raises(VerificationError) as caught:
        verify(graph_module)
    assert caught.value.node == node.name
    assert caught.value.location is not None


def test_a_symbol_of_no_input_is_found_in_a_region(program: Program) -> None:
    graph_module = copy_graph_module(program.graph_module)
    input_size = graph_module.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0]
    node = find(graph_module, aten.mul.Tensor)
    shape_env = input_size.node.shape_env
    stray = shape_env.create_unbacked_symint()
    with node.meta["val"].fake_mode:
        node.meta["val"] = torch.empty_strided((stray, 3), (3, 1))
    with pytest.raises(VerificationError, match="region") as caught:
        verify(graph_module)
    assert str(stray) in caught.value.message
