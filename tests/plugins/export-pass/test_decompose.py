"""`decompose`: core ATen operators, the same numbers, the same program around them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from hopyard import Program, Session, make_fx
from hopyard.errors import OptionError
from hopyard.hops import bound
from hopyard.verify import verify, walk_graphs
from hopyard_export_pass import Decompose, Decomposition, ReplayError

aten = torch.ops.aten
Capture = Callable[..., Program]
Case = tuple[Callable[..., Any], tuple[Any, ...]]

BEYOND_CORE = {aten.lift_fresh_copy.default, aten.split.Tensor}
"""What torch's table does not decompose although it is no core operator."""


def calls(graph_module: GraphModule) -> list[Node]:
    return [
        node
        for _, body in walk_graphs(graph_module)
        for node in body.graph.nodes
        if node.op == "call_function" and isinstance(node.target, type(aten.add.Tensor))
    ]


def assert_core(graph_module: GraphModule) -> None:
    table = dict(torch.export.default_decompositions().items())
    assert not {node.target for node in calls(graph_module)} & table.keys()


def test_programs_compute_what_eager_does(session: Session, capture: Capture, case: Case) -> None:
    target, inputs = case
    program = capture(copy.deepcopy(target), *inputs)
    result = session.run("decompose", program)
    assert_core(result.program.graph_module)
    for _ in range(2):
        torch.testing.assert_close(result.program(*inputs), target(*inputs))
    again = Decompose()(result.program.graph_module)
    assert again.modified is False


def test_a_transformer(session: Session, capture: Capture) -> None:
    transformers = pytest.importorskip("transformers", reason="the models are transformers'")
    config = transformers.GPT2Config(
        n_layer=2,
        n_embd=32,
        n_head=2,
        vocab_size=64,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    model = transformers.GPT2Model(config).eval()
    tokens = torch.randint(0, 64, (2, 7))
    expected = model(tokens).last_hidden_state
    program = capture(model, tokens)
    result = session.run("decompose,remove-no-ops,dce", program)
    decomposed, cleaned, _ = result.records
    assert decomposed.modified
    assert decomposed.nodes_after > decomposed.nodes_before
    assert cleaned.nodes_after < cleaned.nodes_before
    assert_core(result.program.graph_module)
    torch.testing.assert_close(result.program(tokens)["last_hidden_state"], expected)
    # Every operator still knows the line of the model that it comes from.
    assert all("stack_trace" in node.meta for node in calls(result.program.graph_module))


def test_regions_are_decomposed(session: Session, capture: Capture) -> None:
    region = bound("export_pass_tests__region")
    weight = torch.randn(4, 3)

    def function(x: Tensor) -> Tensor:
        return region(lambda t: nn.functional.linear(t, weight).t(), torch.relu(x))

    x = torch.randn(2, 3)
    program = capture(function, x)
    assert aten.t.default in {node.target for node in calls(program.graph_module)}
    decomposed = session.run("decompose", program).program
    assert len(list(walk_graphs(decomposed.graph_module))) == 2
    assert_core(decomposed.graph_module)
    torch.testing.assert_close(decomposed(x), function(x))


def test_inputs_and_signature_stay(session: Session, capture: Capture) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    x = torch.randn(5, 3)
    program = capture(model, x)
    decomposed = session.run("decompose", program).program
    before = program.graph.find_nodes(op="placeholder")
    after = decomposed.graph.find_nodes(op="placeholder")
    assert [(node.name, node.target) for node in before] == [
        (node.name, node.target) for node in after
    ]
    assert [spec.kind for spec in decomposed.signature.output_specs] == [
        spec.kind for spec in program.signature.output_specs
    ]
    reference = copy.deepcopy(model)
    torch.testing.assert_close(decomposed(x), reference(x))
    torch.testing.assert_close(model[1].running_mean, reference[1].running_mean)
    assert int(model[1].num_batches_tracked) == 1


def test_other_nodes_keep_their_names(capture: Capture) -> None:
    program = capture(lambda x: torch.sin(torch.addcmul(torch.cos(x), x, x)), torch.ones(2))
    made = Decompose()(program.graph_module).graph_module
    before = {node.name: node.target for node in calls(program.graph_module)}
    after = {node.name: node.target for node in calls(made)}
    del before["addcmul"]
    assert before.items() <= after.items()


def test_strides_stay_what_the_operator_makes_them(capture: Capture) -> None:
    def attention(q: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, q, q)

    q = torch.randn(2, 3, 5, 4)
    program = capture(attention, q)
    made = Decompose()(program.graph_module).graph_module
    verify(made, propagate=True)
    decomposed = program.with_graph(made)
    torch.testing.assert_close(decomposed(q), attention(q))
    assert decomposed(q).stride() == attention(q).stride()


class TestTablesOfOnesOwn:
    def test_nested_and_several_results(self) -> None:
        def tan(x: Tensor) -> Tensor:
            return torch.sin(x) / torch.cos(x)

        def aminmax(x: Tensor, *, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
            return torch.tan(x.amin(dim, keepdim)), x.amax(dim, keepdim)

        def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            low, high = torch.aminmax(x, dim=1)
            return low + high, high, torch.tan(high)

        table = {aten.tan.default: tan, aten.aminmax.default: aminmax}
        x = torch.randn(3, 4)
        graph_module = make_fx(function, tracing_mode="fake")(x)
        result = Decomposition(table)(graph_module)
        verify(result.graph_module, propagate=True)
        assert not {node.target for node in calls(result.graph_module)} & table.keys()
        low, high = torch.aminmax(x, dim=1)
        expected = (torch.tan(low) + high, high, torch.tan(high))
        torch.testing.assert_close(tuple(result.graph_module(x)), expected)

    def test_a_decomposition_that_returns_its_operand(self) -> None:
        graph_module = make_fx(lambda x: torch.clone(x) + 1, tracing_mode="fake")(torch.ones(2))
        made = Decomposition({aten.clone.default: lambda x: x})(graph_module).graph_module
        assert [node.target for node in calls(made)] == [aten.add.Tensor]
        assert [node.name for node in calls(made)] == ["add"]

    def test_a_decomposition_with_a_constant(self) -> None:
        offset = torch.tensor([1.0, 2.0])

        def shifted(x: Tensor) -> Tensor:
            return torch.cos(x + offset)

        graph_module = make_fx(torch.sin, tracing_mode="fake")(torch.ones(2))
        made = Decomposition({aten.sin.default: shifted})(graph_module).graph_module
        verify(made, propagate=True)
        torch.testing.assert_close(made(torch.ones(2)), torch.cos(torch.ones(2) + offset))

    def test_one_tensor_twice_and_tensors_in_lists(self) -> None:
        def cat(tensors: list[Tensor], dim: int = 0) -> Tensor:
            return torch.stack(tensors, dim + 1).sum(dim + 1) if dim else torch.stack(tensors)

        graph_module = make_fx(lambda x: torch.cat([x, x, x * 2]), tracing_mode="fake")(
            torch.ones(2)
        )
        made = Decomposition({aten.cat.default: cat})(graph_module).graph_module
        x = torch.randn(2)
        torch.testing.assert_close(made(x), torch.stack([x, x, x * 2]))

    def test_a_decomposition_that_fails_is_named_with_its_node(self, capture: Capture) -> None:
        def broken(x: Tensor) -> Tensor:
            raise ZeroDivisionError

        program = capture(lambda x: torch.sin(x), torch.ones(2))
        with pytest.raises(ReplayError) as caught:
            Decomposition({aten.sin.default: broken})(program.graph_module)
        assert caught.value.node == "sin"
        assert caught.value.location is not None
        assert caught.value.location.file == __file__


def test_a_wrong_table_is_refused_before_anything_runs(session: Session) -> None:
    with pytest.raises(OptionError) as caught:
        session.pipeline("decompose{table=coreaten}")
    assert "core-aten" in str(caught.value)


def test_the_decomposed_program_saves_and_loads(
    session: Session, capture: Capture, tmp_path: Any
) -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)).eval(), torch.randn(2, 3)
    program = session.run("decompose,dce", capture(model, x)).program
    program.save(tmp_path / "model.pt2")
    torch.testing.assert_close(session.load(tmp_path / "model.pt2")(x), model(x))
