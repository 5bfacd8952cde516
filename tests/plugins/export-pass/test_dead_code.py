"""`dce`: what nothing uses goes, what somebody could notice stays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard import Program, Session, make_fx
from hopyard.hops import bound
from hopyard.verify import verify, walk_graphs
from hopyard_export_pass import EliminateDeadCode

aten = torch.ops.aten
Capture = Callable[..., Program]


def fake_graph(function: Callable[..., Any], *args: Any) -> GraphModule:
    graph_module: GraphModule = make_fx(function, tracing_mode="fake")(*args)
    return graph_module


def kill(graph_module: GraphModule, *names: str) -> None:
    """Let the graph return its first input only, or the nodes named."""
    nodes = {node.name: node for node in graph_module.graph.nodes}
    kept = [nodes[name] for name in names] or graph_module.graph.find_nodes(op="placeholder")[:1]
    graph_module.graph.output_node().args = (tuple(kept),)
    graph_module.recompile()


def called(graph_module: GraphModule) -> list[Any]:
    return [node.target for node in graph_module.graph.nodes if node.op == "call_function"]


def test_dead_nodes_go_in_chains() -> None:
    graph_module = fake_graph(lambda x: (torch.sin(x), torch.cos(torch.tan(x))), torch.ones(2))
    kill(graph_module, "sin")
    result = EliminateDeadCode()(graph_module)
    assert result.modified is True
    assert called(result.graph_module) == [aten.sin.default]
    verify(result.graph_module, propagate=True)
    assert EliminateDeadCode()(graph_module).modified is False


def test_the_program_computes_what_it_did(
    session: Session, capture: Capture, case: tuple[Callable[..., Any], tuple[Any, ...]]
) -> None:
    target, inputs = case
    program = capture(target, *inputs)
    result = session.run("dce", program)
    assert result.records[0].modified is False
    assert len(result.program.graph.nodes) == len(program.graph.nodes)


def test_inputs_stay(session: Session, capture: Capture) -> None:
    program = capture(lambda x, y: x + 1, torch.ones(2), torch.ones(3))
    assert session.run("dce", program).program(torch.ones(2), torch.ones(3)).shape == (2,)


def test_dead_results_of_one_operator(capture: Capture) -> None:
    graph_module = fake_graph(lambda x: torch.split(x, 1), torch.ones(3))
    kill(graph_module, "getitem_1")
    assert EliminateDeadCode()(graph_module).modified is True
    assert called(graph_module) == [aten.split.Tensor, operator.getitem]


def test_random_operators_stay() -> None:
    graph_module = fake_graph(lambda x: (torch.rand_like(x), torch.rand(2)), torch.ones(2))
    kill(graph_module, "rand")
    assert EliminateDeadCode()(graph_module).modified is False
    torch.manual_seed(3)
    (found,) = graph_module(torch.ones(2))
    torch.manual_seed(3)
    torch.rand(2)
    torch.testing.assert_close(found, torch.rand(2))


def insert(graph_module: GraphModule, target: Any, *args: Any) -> Node:
    output = graph_module.graph.output_node()
    with graph_module.graph.inserting_before(output):
        return graph_module.graph.call_function(target, args)


@pytest.mark.parametrize(
    "target", [aten.add_.Tensor, aten._assert_async.msg, aten._local_scalar_dense.default]
)
def test_effects_stay(target: Any) -> None:
    graph_module = fake_graph(lambda x: torch.sum(x), torch.ones(2))
    (x,) = graph_module.graph.find_nodes(op="placeholder")
    extra = {aten.add_.Tensor: (1,), aten._assert_async.msg: ("no",)}.get(target, ())
    insert(graph_module, target, x, *extra)
    assert EliminateDeadCode()(graph_module).modified is False


def test_operators_that_return_nothing_stay() -> None:
    from torch.library import custom_op

    seen: list[int] = []

    @custom_op("export_pass_tests::note", mutates_args=())
    def note(x: Tensor) -> None:
        seen.append(x.numel())

    graph_module = fake_graph(torch.sin, torch.ones(2))
    insert(
        graph_module,
        torch.ops.export_pass_tests.note.default,
        graph_module.graph.find_nodes(op="placeholder")[0],
    )
    assert EliminateDeadCode()(graph_module).modified is False
    graph_module.recompile()
    graph_module(torch.ones(2))
    assert seen == [2]


def test_functions_that_are_not_known_stay() -> None:
    graph_module = fake_graph(torch.sin, torch.ones(2))
    (x,) = graph_module.graph.find_nodes(op="placeholder")
    insert(graph_module, print, "hello")
    insert(graph_module, operator.iadd, x, 1).meta["val"] = x.meta["val"]
    size = insert(graph_module, aten.sym_size.int, x, 0)
    insert(graph_module, operator.add, size, 1).meta["val"] = 3
    assert EliminateDeadCode()(graph_module).modified is True
    assert called(graph_module) == [aten.sin.default, print, operator.iadd]


class TestRegions:
    def test_dead_nodes_in_a_body_go(self, session: Session, capture: Capture) -> None:
        region = bound("export_pass_tests__region")
        program = capture(lambda x: region(torch.sin, x), torch.ones(2))
        _, (_, body) = walk_graphs(program.graph_module)
        (argument,) = body.graph.find_nodes(op="placeholder")
        insert(body, aten.cos.default, argument).meta = dict(argument.meta)
        result = session.run("dce", program)
        assert result.records[0].modified is True
        bodies = [found for path, found in walk_graphs(result.program.graph_module) if path]
        assert [called(found) for found in bodies] == [[aten.sin.default]]
        assert called(body) == [aten.sin.default, aten.cos.default]
        torch.testing.assert_close(result.program(torch.ones(2)), torch.sin(torch.ones(2)))

    def test_a_dead_region_goes_with_its_body(self) -> None:
        region = bound("export_pass_tests__region")
        graph_module = fake_graph(lambda x: region(torch.sin, x), torch.ones(2))
        kill(graph_module)
        assert EliminateDeadCode()(graph_module).modified is True
        assert called(graph_module) == []
        assert not list(graph_module.children())

    def test_a_dead_region_with_a_random_operator_stays(self) -> None:
        region = bound("export_pass_tests__region")
        graph_module = fake_graph(
            lambda x: region(lambda t: region(torch.rand_like, t), x), torch.ones(2)
        )
        kill(graph_module)
        assert EliminateDeadCode()(graph_module).modified is False

    def test_a_dead_region_with_a_meaning_of_its_own_stays(self) -> None:
        scaled = bound("export_pass_tests__scaled")
        graph_module = fake_graph(lambda x: scaled(torch.sin, x, factor=2.0), torch.ones(2))
        kill(graph_module)
        assert EliminateDeadCode()(graph_module).modified is False

    @pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
    def test_torch_s_conditions(self) -> None:
        class Choice(torch.nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x + torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

        exported = torch.export.export(Choice(), (torch.ones(2),)).run_decompositions({})
        graph_module = exported.graph_module
        assert EliminateDeadCode()(graph_module).modified is False
        kill(graph_module)
        assert EliminateDeadCode()(graph_module).modified is True
        assert called(graph_module) == []


def test_constants_that_nothing_reads_any_more_go() -> None:
    constant = torch.ones(2)
    graph_module = make_fx(lambda x: (torch.sin(x), x + constant))(torch.ones(2))
    kill(graph_module, "sin")
    assert EliminateDeadCode()(graph_module).modified is True
    assert not [name for name in vars(graph_module) if "constant" in name]
    assert not list(graph_module.buffers())
