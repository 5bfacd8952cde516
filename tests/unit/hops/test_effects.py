"""What is known of a call's writes and aliases, and what is done about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._higher_order_ops.schema import find_hop_schema

import hopyard
from hopyard.errors import UnsupportedError, UsageError
from hopyard.hops import Effects, Operator, bind, effects_of_call


@pytest.fixture
def writer(define: Any) -> Operator:
    """A region whose body may write to what it is given."""
    return bind(define(writes=True))


def capture(function: Callable[..., Any], count: int = 1) -> Any:
    return hopyard.make_fx(function, tracing_mode="fake")(
        *(torch.ones(3, 4) * (index + 1) for index in range(count))
    )


def effects(operator: Operator, body: Callable[..., Any], count: int = 1) -> Effects:
    graph_module = capture(lambda *inputs: operator(body, *inputs), count)
    (call,) = graph_module.graph.find_nodes(op="call_function", target=operator)
    found = effects_of_call(call)
    assert found is not None
    return found


def through_a_view(v: Tensor) -> Tensor:
    v[0].mul_(2)
    return v.sum()


def two_views(v: Tensor) -> tuple[Tensor, Tensor]:
    made = v * 2
    return made, made.t()


EFFECTS: dict[str, tuple[Callable[..., Any], int, Effects]] = {
    "nothing": (lambda v: v * 2, 1, Effects()),
    "local-write": (lambda v: v.clone().add_(1), 1, Effects()),
    "write": (lambda v, w: w.add_(v) * 2, 2, Effects(written=frozenset({1}))),
    "write-and-return": (lambda v: v.add_(1), 1, Effects(frozenset({0}), same=((0, 0),))),
    "write-through-a-view": (through_a_view, 1, Effects(written=frozenset({0}))),
    "out": (lambda v, w: torch.add(v, v, out=w), 2, Effects(frozenset({1}), same=((0, 1),))),
    "same": (lambda v, w: (w, v * 2), 2, Effects(same=((0, 1),))),
    "view": (lambda v: (v * 2, v.t()), 1, Effects(views=((1, frozenset({0})),))),
    "shared": (two_views, 1, Effects(shared=((0, 1),))),
    "random": (lambda v: torch.rand_like(v), 1, Effects(random=True)),
    "chunks": (
        lambda v: v.chunk(2, 1),
        1,
        Effects(views=((0, frozenset({0})), (1, frozenset({0})))),
    ),
    "several-results": (lambda v: torch.max(v, 0), 1, Effects()),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_effects(name: str, writer: Operator) -> None:
    body, count, expected = EFFECTS[name]
    assert effects(writer, body, count) == expected


def test_effects_of_a_region_within(writer: Operator) -> None:
    found = effects(writer, lambda v, w: writer(lambda a: w.add_(a), v) * 2, 2)
    assert found == Effects(written=frozenset({1}))


def test_effects_of_other_calls(writer: Operator, operator: Operator) -> None:
    graph_module = capture(lambda x: operator(x, x) + 1)
    call, add = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    assert effects_of_call(call) == Effects()
    assert effects_of_call(add) is None
    call.args = (torch.sin, call.args[0])
    call.target = writer
    assert effects_of_call(call) is None


def test_torchs_passes_get_a_schema(writer: Operator) -> None:
    graph_module = capture(lambda x, y: writer(lambda v, w: (w.add_(v) * 2,), x, y), 2)
    (schema,) = find_hop_schema(graph_module, writer)
    assert [argument.is_write for argument in schema.arguments] == [False, False, True]
    assert len(schema.returns) == 1
    with pytest.raises(UsageError):
        writer.gen_schema(torch.sin, torch.ones(1))


def test_a_call_that_writes_is_no_dead_code(writer: Operator) -> None:
    def function(x: Tensor) -> Tensor:
        copy = x.clone()
        writer(lambda v: v.add_(1), copy)
        return copy

    graph_module = capture(function)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    assert graph_module(torch.zeros(3, 4)).equal(torch.ones(3, 4))


class TestFunctionalized:
    """`torch.func.functionalize` in a capture: what a body writes is put in place afterwards."""

    def graph(self, function: Callable[..., Any], count: int = 1) -> Any:
        functional = torch.func.functionalize(function)
        graph_module = capture(lambda *inputs: functional(*inputs), count)
        fresh = [torch.randn(3, 4) for _ in range(count)]
        torch.testing.assert_close(
            graph_module(*[value.clone() for value in fresh]),
            function(*[value.clone() for value in fresh]),
        )
        return graph_module

    def test_an_operand(self, define: Any) -> None:
        plain = bind(define())

        def function(x: Tensor) -> tuple[Tensor, ...]:
            copy = x.clone()
            view = copy[0]
            result = plain(lambda v: v.mul_(3).sin(), copy)
            return copy * 2, view + 1, result

        graph_module = self.graph(function)
        (call,) = graph_module.graph.find_nodes(op="call_function", target=plain)
        assert effects_of_call(call) == Effects()

    def test_a_view(self, define: Any) -> None:
        plain = bind(define())

        def function(x: Tensor) -> tuple[Tensor, ...]:
            copy = x.clone()
            result = plain(lambda v: v.mul_(3).sum(), copy.t()[1:])
            return copy * 2, result

        self.graph(function)

    def test_an_input(self, define: Any) -> None:
        plain = bind(define())
        self.graph(lambda x: plain(lambda v: v.mul_(3).sum(), x) + x)

    def test_what_it_returns_is_the_operand(self, define: Any) -> None:
        plain = bind(define())

        def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            copy, other = x.clone(), y.clone()
            same, captured, new = plain(lambda v: (v.add_(1), other, v * 2), copy)
            same.mul_(2)
            captured.add_(5)
            return copy, other, new, same, captured

        self.graph(function, 2)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (lambda v, w: v.t(), "view of operand 0"),
            (lambda v, w: two_views(w), "share memory"),
            (lambda v, w: v.view(-1).add_(1), "view of operand 0"),
        ],
    )
    def test_aliasing_results(self, body: Any, words: str, define: Any) -> None:
        plain = bind(define())
        with pytest.raises(UnsupportedError, match=words) as raised:
            self.graph(lambda x, y: plain(body, x.clone(), y.clone()), 2)
        assert plain.name() in str(raised.value)
        assert raised.value.hint

    def test_two_operands_that_share_memory(self, define: Any) -> None:
        plain = bind(define())

        def function(x: Tensor) -> Tensor:
            copy = x.clone()
            return plain(lambda v, w: v.add_(1) * w, copy, copy[0]) + copy

        with pytest.raises(UnsupportedError, match="shares memory with operand 1"):
            self.graph(function)

    def test_an_operator_that_does_more_than_run_its_body(self, region: Operator) -> None:
        with pytest.raises(UnsupportedError, match="operand 0 in place, and does more"):
            self.graph(lambda x: region(lambda v: v.add_(1) * 2, x.clone()))

    @pytest.mark.parametrize(
        ("eager", "words"),
        [(lambda x: x.add_(1) * 2, "operand 0 in place"), (lambda x: x.t(), "view")],
    )
    def test_an_operator_without_a_body(self, eager: Any, words: str, define: Any) -> None:
        operator = bind(define(eager, kind="operator"))
        with pytest.raises(UnsupportedError, match=words):
            self.graph(lambda x: operator(x.clone()))
