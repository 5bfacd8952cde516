"""Rewriting by pattern: what is replaced, what is left alone, what new nodes say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard.errors import PassError, UsageError
from hopyard.hops import bind
from hopyard.passes import Match, Rewrite
from hopyard.pipeline import origin_of
from hopyard.plugins import GivenPlugin
from hopyard.program import Program
from hopyard.session import Session
from hopyard.verify import verify, walk_graphs
from hopyard_hookspecs import Hop, Pass, hookimpl

aten = torch.ops.aten
X = torch.linspace(-1, 1, 12).reshape(3, 4)
REGION = bind(Hop("rewrite_tests__region"))


def session_with(rewrite: Any) -> Session:
    class Plugin:
        @hookimpl
        def hopyard_register_passes(self) -> list[Pass]:
            return [Pass("rewrite", rewrite)]

    plugin = GivenPlugin(Plugin(), "acme", "acme-passes", "1.2")
    return Session(plugins=[plugin], discover=False)


def rewritten(rewrite: Rewrite, function: Callable[..., Any], *args: Any, **how: Any) -> Program:
    """Capture, rewrite, verify, and compare with the function itself."""
    session = session_with(rewrite)
    with torch.no_grad():
        program = session.capture(function, args or (X,), **how)
    result = session.run("rewrite", program)
    for found, expected in zip(
        torch.utils._pytree.tree_leaves(result.program(*(args or (X,)))),
        torch.utils._pytree.tree_leaves(function(*(args or (X,)))),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
    return result.program


def count(program: Program, target: object) -> int:
    return sum(
        len(body.graph.find_nodes(op="call_function", target=target))
        for _, body in walk_graphs(program.graph_module)
    )


FOLD_RELU = Rewrite(
    lambda x: aten.relu.default(aten.relu.default(x)), lambda x: aten.relu.default(x)
)
TO_ADDCMUL = Rewrite(
    lambda x, y, z: aten.add.Tensor(x, aten.mul.Tensor(y, z)),
    lambda x, y, z: aten.addcmul.default(x, y, z),
)
SPLIT_SILU = Rewrite(
    lambda x: aten.silu.default(x), lambda x: aten.mul.Tensor(x, aten.sigmoid.default(x))
)


def test_what_matches_is_replaced_everywhere() -> None:
    def function(x: Tensor) -> Tensor:
        inner = REGION(lambda y: y.sin().relu().relu(), x)
        return inner.relu().relu() + x.cos().relu()

    program = rewritten(FOLD_RELU, function)
    assert count(program, aten.relu.default) == 3


def test_new_nodes_have_values_source_lines_and_origins() -> None:
    program = rewritten(SPLIT_SILU, lambda x: torch.nn.functional.silu(x))
    verify(program.graph_module, propagate=True)
    new = [node for node in program.graph.nodes if origin_of(node)]
    assert [node.target for node in new] == [aten.sigmoid.default, aten.mul.Tensor]
    for node in new:
        origin = origin_of(node)
        assert origin is not None
        assert origin.nodes == ("silu",)
        assert "stack_trace" in node.meta
        assert node.meta["val"].shape == X.shape
        assert node.meta["tensor_meta"].shape == X.shape


def test_a_node_made_from_several_names_them_all() -> None:
    program = rewritten(TO_ADDCMUL, lambda x: (x + 1) + (x * x.sin()))
    (node,) = program.graph.find_nodes(op="call_function", target=aten.addcmul.default)
    origin = origin_of(node)
    assert origin is not None
    assert origin.nodes == ("mul", "add_1")


def test_matches_may_follow_each_other() -> None:
    program = rewritten(TO_ADDCMUL, lambda x: x + (x.sin() + x.cos() * x.exp()) * x.tan())
    assert count(program, aten.addcmul.default) == 2
    assert count(program, aten.mul.Tensor) == 0


def test_defaults_match_what_is_left_out() -> None:
    rewrite = Rewrite(
        lambda x, y: aten.add.Tensor(x, y, alpha=1), lambda x, y: aten.add.Tensor(y, x)
    )
    program = rewritten(rewrite, lambda x: x.sin() + x.cos())
    (node,) = program.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    assert [str(operand) for operand in node.args] == ["cos", "sin"]


@pytest.mark.parametrize("scalar", [2, 1.0, True])
def test_a_literal_matches_its_own_kind_only(scalar: Any) -> None:
    rewrite = Rewrite(lambda x: aten.mul.Tensor(x, 1), lambda x: aten.clone.default(x))
    program = rewritten(rewrite, lambda x: x.sin() * scalar)
    assert count(program, aten.mul.Tensor) == 1


def test_a_parameter_may_stand_for_a_number() -> None:
    rewrite = Rewrite(
        lambda x, n: aten.mul.Tensor(aten.relu.default(x), n),
        lambda x, n: aten.relu.default(aten.mul.Tensor(x, n)),
        where=lambda match: isinstance(match.inputs["n"], float) and match.inputs["n"] >= 0,
    )
    program = rewritten(rewrite, lambda x: x.relu() * 3.0 + x.relu() * -3.0)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.index(aten.mul.Tensor) < targets.index(aten.relu.default)
    assert targets.count(aten.relu.default) == 2


def test_an_inner_value_that_others_use_keeps_a_match_as_it_is() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        product = x * x.sin()
        return x + product, product

    assert count(rewritten(TO_ADDCMUL, function), aten.addcmul.default) == 0


def test_patterns_may_return_several_values() -> None:
    rewrite = Rewrite(_sin_and_cos_of_neg, _sin_and_cos)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = -x
        sin, cos = y.sin(), y.cos()
        return sin + 1, cos

    def used_before(x: Tensor) -> tuple[Tensor, Tensor]:
        y = -x
        sin = y.sin() + 1
        return sin, y.cos()

    made = [node.name for node in rewritten(rewrite, function).graph.nodes if origin_of(node)]
    assert made == ["sin_default", "neg_default", "cos_default"]
    for untouched in (used_before, lambda x: x.neg().sin(), lambda x: x.exp()):
        assert not any(map(origin_of, rewritten(rewrite, untouched).graph.nodes))


def _sin_and_cos(x: Any) -> Any:
    return aten.neg.default(aten.sin.default(x)), aten.cos.default(x)


def _sin_and_cos_of_neg(x: Any) -> Any:
    y = aten.neg.default(x)
    return aten.sin.default(y), aten.cos.default(y)


def test_dynamic_sizes_stay_dynamic() -> None:
    batch = {0: torch.export.Dim("batch", min=2, max=9)}
    session = session_with(SPLIT_SILU)
    program = session.capture(lambda x: torch.nn.functional.silu(x), (X,), dynamic_shapes=(batch,))
    result = session.run("rewrite", program).program
    (node,) = result.graph.find_nodes(op="call_function", target=aten.mul.Tensor)
    assert not isinstance(node.meta["val"].shape[0], int)
    y = torch.randn(7, 4)
    torch.testing.assert_close(result(y), torch.nn.functional.silu(y))


def test_other_strides_reach_what_follows() -> None:
    to_transposed = Rewrite(
        lambda x: aten.relu.default(x),
        lambda x: aten.t.default(
            aten.relu.default(
                aten.clone.default(aten.t.default(x), memory_format=torch.contiguous_format)
            )
        ),
        where=lambda match: match.nodes[0].meta["val"].is_contiguous(),
    )
    program = rewritten(to_transposed, lambda x: x.relu().sin())
    verify(program.graph_module, propagate=True)
    (sin,) = program.graph.find_nodes(op="call_function", target=aten.sin.default)
    assert sin.meta["val"].stride() == (1, 3)
    assert sin.meta["tensor_meta"].stride == (1, 3)


def test_a_write_between_the_nodes_of_a_match_keeps_it() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    sin = graph.call_function(aten.sin.default, (x,))
    product = graph.call_function(aten.mul.Tensor, (x, sin))
    written = graph.call_function(aten.add_.Tensor, (x, 1.0))
    total = graph.call_function(aten.add.Tensor, (sin, product))
    graph.output((total, written))
    value = torch.randn(3)
    for node in graph.nodes:
        node.meta["val"] = value
    graph_module = GraphModule({}, graph)
    assert not TO_ADDCMUL(graph_module).modified
    expected = value.sin() + value * value.sin()
    torch.testing.assert_close(graph_module(value.clone())[0], expected)


@pytest.mark.parametrize(
    ("pattern", "replacement", "said"),
    [
        (lambda x: x.relu(), lambda x: x, "no call of an operator"),
        (lambda x: torch.relu(x), lambda x: x, "no call of an operator"),
        (lambda x: aten.relu.default(x), lambda x: x + 1, "no call of an operator"),
        (lambda x: aten.relu.default(x), lambda x, y: x, "the replacement takes"),
        (lambda x, y: aten.relu.default(x), lambda x, y: x, "does not use"),
    ],
)
def test_what_cannot_be_matched_is_refused(pattern: Any, replacement: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Rewrite(pattern, replacement)


def test_a_replacement_of_another_type_is_refused_with_the_node_and_its_line() -> None:
    rewrite = Rewrite(lambda x: aten.relu.default(x), lambda x: aten.sum.default(x))
    with pytest.raises(PassError, match="not like it") as caught:
        rewritten(rewrite, lambda x: x.relu())
    assert caught.value.node == "relu"
    assert caught.value.location is not None
    assert caught.value.location.file == __file__
    assert caught.value.plugin is not None
    assert caught.value.stage == "rewrite"


def test_a_replacement_that_cannot_be_computed_is_refused() -> None:
    rewrite = Rewrite(lambda x: aten.relu.default(x), lambda x: aten.mm.default(x, x))
    with pytest.raises(PassError, match="cannot be computed"):
        rewritten(rewrite, lambda x: x.relu())


def test_a_match_tells_what_matched() -> None:
    seen: list[Match] = []

    def note(match: Match) -> bool:
        seen.append(match)
        return False

    rewrite = Rewrite(TO_ADDCMUL.pattern, TO_ADDCMUL.replacement, where=note)
    rewritten(rewrite, lambda x: x + x.sin() * x.cos())
    (match,) = seen
    assert [str(value) for value in match.inputs.values()] == ["x", "sin", "cos"]
    assert [node.name for node in match.nodes] == ["mul", "add"]
    assert [node.name for node in match.results] == ["add"]
    assert all(isinstance(node, Node) for node in match.nodes)
