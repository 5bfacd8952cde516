"""Which pass made a node, and from which nodes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from hopyard.pipeline import derive_metadata, origin_of
from hopyard.program import Program
from hopyard.session import Session
from hopyard.verify import walk_graphs
from hopyard_hookspecs import PassResult, Provider

if TYPE_CHECKING:
    from conftest import MakeSession

aten = torch.ops.aten
ACME = Provider("acme", "acme-passes", "1.2")


@pytest.fixture(scope="module")
def program() -> Program:
    def square(x: Tensor) -> Tensor:
        return (x * 2.0).relu().exp()

    with torch.no_grad():
        return Session(discover=False).capture(square, (torch.randn(3),))


def by_hand(graph_module: GraphModule) -> PassResult:
    """relu(exp) becomes two nodes, whose metadata is copied from nowhere."""
    graph = graph_module.graph
    (relu,) = graph.find_nodes(op="call_function", target=aten.relu.default)
    with graph.inserting_after(relu):
        first = graph.call_function(aten.neg.default, relu.args)
    with graph.inserting_after(first):
        second = graph.call_function(aten.abs.default, (first,))
    first.meta = {"val": relu.meta["val"]}
    second.meta = {"val": relu.meta["val"]}
    relu.replace_all_uses_with(second)
    graph.erase_node(relu)
    return PassResult(graph_module, modified=True)


def fused(graph_module: GraphModule) -> PassResult:
    """A node stands for two, and says so."""
    graph = graph_module.graph
    exp = next(node for node in graph.nodes if node.target is aten.exp.default)
    inner = exp.args[0]
    with graph.inserting_after(exp):
        new = graph.call_function(aten.sigmoid.default, inner.args)
    derive_metadata(new, [inner, exp])
    exp.replace_all_uses_with(new)
    graph.erase_node(exp)
    graph.erase_node(inner)
    return PassResult(graph_module, modified=True)


def rebuilt(graph_module: GraphModule) -> PassResult:
    return by_hand(copy.deepcopy(graph_module))


@pytest.mark.parametrize("edit", [by_hand, rebuilt])
def test_nodes_without_metadata_come_from_what_they_replace(
    edit: object, program: Program, make_session: MakeSession
) -> None:
    graph = make_session(edit=edit).run("edit", program).program.graph
    found = {node.name: origin_of(node) for node in graph.nodes if origin_of(node)}
    assert {name: origin.nodes for name, origin in found.items() if origin} == {
        "neg_default": ("relu",),
        "abs_default": ("relu",),
    }
    assert all(origin.provider == ACME for origin in found.values() if origin)


def test_a_node_made_from_several_keeps_their_history_and_their_line(
    program: Program, make_session: MakeSession
) -> None:
    session = make_session(by_hand=by_hand, fused=fused)
    graph = session.run("by-hand,fused", program).program.graph
    (node,) = graph.find_nodes(op="call_function", target=aten.sigmoid.default)
    origin = origin_of(node)
    assert origin is not None
    assert origin.nodes == ("abs_default", "exp")
    assert [earlier.nodes for earlier in origin.earlier] == [("relu",)]
    assert str(origin) == (
        "fused [acme-passes 1.2] from abs_default, exp; by-hand [acme-passes 1.2] from relu"
    )
    assert "stack_trace" in node.meta


def test_programs_that_were_only_captured_have_no_origins(
    program: Program, make_session: MakeSession
) -> None:
    assert not any(map(origin_of, program.graph.nodes))
    make_session(by_hand=by_hand).run("by-hand", program)
    assert not any(map(origin_of, program.graph.nodes))


def test_nothing_is_left_of_what_was_noted_while_a_pass_ran(
    program: Program, make_session: MakeSession
) -> None:
    result = make_session(by_hand=by_hand, fused=fused).run("by-hand,fused", program).program
    for each in (program, result):
        keys = {key for node in each.graph.nodes for key in node.meta if key.startswith("hopyard")}
        assert keys <= {"hopyard_origin"}


def test_the_same_pipeline_makes_the_same_graph(
    program: Program, make_session: MakeSession
) -> None:
    session = make_session(by_hand=by_hand, fused=fused)
    once, again = (session.run("by-hand,fused", program).program for _ in range(2))
    assert [
        (node.name, node.target, str(node.args), str(origin_of(node))) for node in once.graph.nodes
    ] == [
        (node.name, node.target, str(node.args), str(origin_of(node))) for node in again.graph.nodes
    ]


def in_regions(graph_module: GraphModule) -> PassResult:
    for body in graph_module.modules():
        if isinstance(body, GraphModule):
            for node in body.graph.find_nodes(op="call_function", target=aten.sin.default):
                node.target = aten.cos.default
    return PassResult(graph_module, modified=True)


def told(program: Program) -> dict[tuple[str, str], str]:
    return {
        (path, node.name): str(origin)
        for path, body in walk_graphs(program.graph_module)
        for node in body.graph.nodes
        if (origin := origin_of(node))
    }


def test_origins_survive_in_files(make_session: MakeSession, tmp_path: Path) -> None:
    def branching(x: Tensor) -> tuple[Tensor, ...]:
        y = torch.cond(x.sum() > 0, lambda z: z.sin() * 2, lambda z: z.sin().relu(), (x,))
        return (y * 2.0).relu().exp().chunk(2)

    session = make_session(by_hand=by_hand, fused=fused, regions=in_regions)
    with torch.no_grad():
        program = session.capture(branching, (torch.randn(4),))
    result = session.run("by-hand,fused,regions", program).program
    result.save(tmp_path / "made.pt2")
    again = session.load(tmp_path / "made.pt2")
    assert again == result
    assert len(told(result)) == 4
    assert told(again) == told(result)
    program.save(tmp_path / "captured.pt2")
    assert not told(session.load(tmp_path / "captured.pt2"))
